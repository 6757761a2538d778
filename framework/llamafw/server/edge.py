"""The outermost layer: request ids, the Server header, and which web pages may call (CORS). It knows no operations."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw.server.access import current
from llamafw.server.errors import envelope, error_type
from llamafw.server.responses import JSONResponse
from llamafw.types import Problem

LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
EXPOSED = ("X-Request-Id", "X-Llamafw-Ignored-Fields")
_MOST_NAMES = 32
_SANE_ID = re.compile(rb"[A-Za-z0-9_.:/+=-]{1,128}")


class Edge:
    """Gives every request an id, its own if that is sane, and names in the response: the id, the server, and what of
    the request was ignored."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id where `request_id` finds it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        name = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        facts: dict[str, Any] = {}
        scope.setdefault("extensions", {})["llamafw"] = facts
        extra = [(b"server", b"llamafw"), (b"x-request-id", name)]

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                if "ignored" in facts:
                    extra.append((b"x-llamafw-ignored-fields", listed(facts["ignored"])))
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        token = current.set(name.decode())
        try:
            await self.app(scope, receive, named)
        finally:
            current.reset(token)


def listed(names: Sequence[str]) -> bytes:
    """Return names a client made up as the value of a header: %-encoded like parts of a URL, and not too long."""
    return ", ".join(quote(name[:100], safe="") for name in names[:_MOST_NAMES]).encode("ascii")


class Cors(CORSMiddleware):
    """Starlette's CORS, with a refused preflight in our envelope."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; only those of web pages, which have an Origin, concern us."""
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks whether a page may call."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        message = f"{bytes(response.body).decode()}; see --cors-origins"
        return JSONResponse(envelope(Problem(400, message, error_type(400))), status_code=400)


def cors(app: ASGIApp, origins: Iterable[str], methods: Iterable[str]) -> ASGIApp:
    """Return ``app`` behind CORS.

    Parameters
    ----------
    origins : iterable of str
        Origins that may call, credentials included; ``*``: all, without credentials; none: pages on this machine.
    """
    listed = [origin.rstrip("/") for origin in origins]
    everyone = "*" in listed
    return Cors(
        app,
        allow_origins=["*"] if everyone else listed,
        allow_origin_regex=None if listed else LOOPBACK,
        allow_credentials=bool(listed) and not everyone,
        allow_methods=sorted({*methods, "OPTIONS"}),
        allow_headers=["*"],
        expose_headers=EXPOSED,
    )
