"""Say which web pages may call the server (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
EXPOSED_HEADERS = ("X-Request-Id", "Request-Id", "X-Llamafw-Ignored-Fields")


def with_cors(app: ASGIApp, origins: Iterable[str], methods: Iterable[str]) -> ASGIApp:
    """Return ``app`` with CORS headers on its responses.

    Parameters
    ----------
    app : ASGI application
        The application to wrap.
    origins : iterable of str
        Origins that may call, with credentials. With ``*``, all origins may call, without credentials. ``localhost``
        stands for all origins on this machine. If empty, only these may call, without credentials.
    methods : iterable of str
        Methods that web pages may use.
    """
    given = [origin.rstrip("/") for origin in origins]
    allowed = [origin for origin in given if origin != "localhost"]
    any_origin = "*" in allowed
    return LlamafwCORSMiddleware(
        app,
        allow_origins=["*"] if any_origin else allowed,
        allow_origin_regex=None if allowed and allowed == given else LOOPBACK_ORIGINS,
        allow_credentials=bool(given) and not any_origin,
        allow_methods=sorted({*methods, "OPTIONS"}),
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )


class LlamafwCORSMiddleware(CORSMiddleware):
    """Starlette's CORS middleware; a preflight of an origin that may not call is a 200 without permission.

    Browsers then refuse the request themselves, and name the missing header.
    """

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
        return Response(headers={"Vary": "Origin"})
