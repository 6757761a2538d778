"""Say which web pages may call the server (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llamafw.server.errors import envelope, error_type
from llamafw.server.responses import JSONResponse
from llamafw.types import Problem

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
EXPOSED_HEADERS = ("X-Request-Id", "X-Llamafw-Ignored-Fields")


def with_cors(app: ASGIApp, origins: Iterable[str], methods: Iterable[str]) -> ASGIApp:
    """Return ``app`` with CORS headers on its responses.

    Parameters
    ----------
    app : ASGI application
        The application to wrap.
    origins : iterable of str
        Origins that may call, with credentials. With ``*``, all origins may call, without credentials. If empty, pages
        on this machine may call, without credentials.
    methods : iterable of str
        Methods that web pages may use.
    """
    allowed = [origin.rstrip("/") for origin in origins]
    any_origin = "*" in allowed
    return LlamafwCORSMiddleware(
        app,
        allow_origins=["*"] if any_origin else allowed,
        allow_origin_regex=None if allowed else LOOPBACK_ORIGINS,
        allow_credentials=bool(allowed) and not any_origin,
        allow_methods=sorted({*methods, "OPTIONS"}),
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )


class LlamafwCORSMiddleware(CORSMiddleware):
    """Starlette's CORS middleware, with our error envelope for refused preflights."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add CORS headers only if it has an Origin."""
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser's preflight request."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        message = f"{bytes(response.body).decode()}; see --cors-origins"
        return JSONResponse(envelope(Problem(400, message, error_type(400))), status_code=400)
