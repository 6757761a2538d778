"""The access log: one line per request, when it has ended; and the id of the request that is being answered.

It knows nothing of operations. What a line looks like, text or JSON, is the log's business: `llamafw.cli.logs`.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from time import perf_counter
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("llamafw.access")

CLIENT_GONE = 499
"""What nginx writes for a request whose client went away before it was answered in full."""

STOPPING = 503  # cut off, because the server stops
_LONGEST_PATH = 256

current: ContextVar[str] = ContextVar("request_id", default="-")


def request_id() -> str:
    """Return the id of the request that is being answered, as ``X-Request-Id`` shows it; ``-`` outside of any.

    On the event loop, in whatever runs for a request: endpoints, hooks such as ``request_finished``, log handlers.
    """
    return current.get()


class AccessLog:
    """Logs method, path, status, milliseconds, client and id of every request. The query is left out: it may hold keys.

    The time is that from the request's head to the last byte of the answer. `CLIENT_GONE` stands for answers that
    nobody waited for, whatever status they began with.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then log it."""
        if scope["type"] != "http" or not log.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        status, whole = 500, False

        async def watched(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                whole = not message.get("more_body", False)
            await send(message)

        outcome = 500
        try:
            await self.app(scope, receive, watched)
            outcome = status if whole else CLIENT_GONE
        except asyncio.CancelledError:
            outcome = STOPPING
            raise
        finally:
            write(scope, outcome, (perf_counter() - started) * 1e3)


def write(scope: Scope, status: int, ms: float) -> None:
    """Log one request. What the client chose is percent-encoded, so that a line has as many words as it should."""
    path = quote(scope["path"][:_LONGEST_PATH], errors="replace")
    host, port = scope.get("client") or ("-", 0)
    client = f"{quote(host, safe=':', errors='replace')}:{port}"
    fields = {"method": scope["method"], "path": path, "status": status, "ms": round(ms, 2), "client": client}
    log.info(
        "%(method)s %(path)s %(status)d %(ms).2f ms, client %(client)s, request %(request_id)s",
        fields | {"request_id": request_id()},
        extra={"fields": fields},
    )
