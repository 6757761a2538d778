"""Limits on the head of a request, its first line and headers: before all of it has come nobody knows who sends it.

The parser that uvicorn uses here has none. Where it is not installed uvicorn takes another, which limits sizes itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # it is for CPython alone
    HttpToolsProtocol = None  # type: ignore[assignment,misc]  # asked below

MOST = 65536
"""Bytes of a head beyond those that came with its first."""


def protocol(seconds: float) -> Any:
    """Return what uvicorn is to speak HTTP with: a head that is too long is 400, one that does not end within
    ``seconds`` ends the connection."""
    if HttpToolsProtocol is None:
        return "auto"

    class Limited(HttpToolsProtocol):
        """HTTP/1.1 on one connection."""

        unfinished = True  # whether a head has begun and not ended, or none has come
        heads = size = 0  # how many have begun; bytes of the last
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            unfinished, heads = self.unfinished, self.heads
            super().data_received(data)
            if unfinished and self.unfinished and heads == self.heads:
                self.size += len(data)
                if self.size > MOST and not self.transport.is_closing():
                    self.send_400_response("The head of the request is too long.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.unfinished, self.heads, self.size = True, self.heads + 1, 0
            self._wait()

        def on_headers_complete(self) -> None:
            self.unfinished = False
            self._wait_no_more()
            super().on_headers_complete()

        def _wait(self) -> None:
            self._wait_no_more()
            self.timer = self.loop.call_later(seconds, self._too_late)

        def _wait_no_more(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def _too_late(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()
            else:  # the answer to the request before is still being written
                self._wait()

    return Limited
