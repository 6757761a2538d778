"""Give every request an id and every response the headers that all responses have."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw.server.request_id import current

_MAX_IGNORED_FIELDS = 32  # named in the response
_MAX_FIELD_CHARACTERS = 100
_VALID_ID = re.compile(rb"[A-Za-z0-9_.:/+=-]{1,128}")


class CommonHeadersMiddleware:
    """Adds ``Server``, ``X-Request-Id`` and, if fields were ignored, ``X-Llamafw-Ignored-Fields`` to every response.

    A request keeps the id it came with if that is short and free of special characters; otherwise it gets a new one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its id in `llamafw.server.request_id`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        request_id = _request_id(scope)
        parts: dict[str, Any] = {}  # of the request; `ValidationMiddleware` sets them, among them "ignored"
        scope.setdefault("extensions", {})["llamafw"] = parts

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"server", b"llamafw"), (b"x-request-id", request_id)]
                if parts.get("ignored"):
                    headers.append((b"x-llamafw-ignored-fields", encode_names(parts["ignored"])))
                message["headers"] = headers
            await send(message)

        token = current.set(request_id.decode())
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            current.reset(token)


def _request_id(scope: Scope) -> bytes:
    """Return the id that the client chose, if it is valid, or a new one."""
    chosen = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return chosen if _VALID_ID.fullmatch(chosen) else uuid.uuid4().hex.encode()


def encode_names(names: Sequence[str]) -> bytes:
    """Return field names as a header value: percent-encoded, because clients chose them, and of limited length."""
    return ", ".join(quote(name[:_MAX_FIELD_CHARACTERS], safe="") for name in names[:_MAX_IGNORED_FIELDS]).encode()
