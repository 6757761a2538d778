"""Write the access log: one line per request, when it has ended.

The format of a line, text or JSON, is decided in `llamafw.cli.logs`.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw.server.request_id import request_id

log = logging.getLogger("llamafw.access")

CLIENT_CLOSED_REQUEST = 499
"""Status of a request if the client disconnected before the response was complete. Nginx logs the same number."""

SERVER_STOPPING = 503
"""Status of a request that was cut off because the server stops."""

_MAX_PATH_CHARACTERS = 256


class AccessLogMiddleware:
    """Logs method, path, status, milliseconds, client and id of every request.

    The query string is left out because it may contain keys. The time runs from the end of the request's headers to
    the last byte of the response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then log it."""
        if scope["type"] != "http" or not log.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            return

        start = perf_counter()
        status, is_complete = 500, False

        async def watch_send(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                is_complete = not message.get("more_body", False)
            await send(message)

        logged_status = 500
        try:
            await self.app(scope, receive, watch_send)
            logged_status = status if is_complete else CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            logged_status = SERVER_STOPPING
            raise
        finally:
            log_request(scope, logged_status, (perf_counter() - start) * 1e3)


def log_request(scope: Scope, status: int, ms: float) -> None:
    """Log one request.

    Values that the client chose are percent-encoded: they cannot forge a line of the log.
    """
    host, port = scope.get("client") or ("-", 0)
    fields = {
        "method": scope["method"],
        "path": encode_path(scope),
        "status": status,
        "ms": round(ms, 2),
        "client": f"{quote(host, safe=':', errors='replace')}:{port}",
    }

    log.info(
        "%(method)s %(path)s %(status)d %(ms).2f ms, client %(client)s, request %(request_id)s",
        fields | {"request_id": request_id()},
        extra={"fields": fields},
    )


def encode_path(scope: Scope) -> str:
    """Return the path of a request, percent-encoded and of limited length."""
    return quote(scope["path"][:_MAX_PATH_CHARACTERS], errors="replace")
