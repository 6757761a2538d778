"""Limit the size and the time of a request's headers: any client can send them, before it is authenticated.

The httptools parser, which uvicorn uses if it is installed, has no such limits. Otherwise uvicorn uses h11, which
limits the size by itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from llamafw.server.joined_head import JoinedHead
    from llamafw.server.request_parser import RequestParser
except ImportError:  # httptools exists for CPython only
    HttpToolsProtocol = None  # type: ignore[assignment,misc]  # checked in `http_protocol`

MAX_HEADER_BYTES = 65536
"""Maximum size of the request line and headers, without the first chunk of data, which may have a previous body."""


def http_protocol(seconds: float) -> Any:
    """Return a protocol class with limits on headers, for uvicorn's setting ``http``; "auto" without httptools.

    The response to headers that are too long is a 400. If headers are not complete within ``seconds``, the connection
    is closed.
    """
    if HttpToolsProtocol is None:
        return "auto"

    class LimitedHttpProtocol(HttpToolsProtocol):
        """HTTP/1.1 on one connection, with limits on headers."""

        awaits_headers = True  # before the first request, and until the headers of a request are complete
        n_requests = 0  # how many requests have begun
        n_header_bytes = 0  # of the current request
        timer: asyncio.TimerHandle | None = None

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.parser = RequestParser(self)  # type: ignore[assignment]  # has the methods that uvicorn calls

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
            super().connection_made(JoinedHead(transport, self.loop.call_soon))  # type: ignore[arg-type]  # has what uvicorn uses
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            awaited_headers, n_requests = self.awaits_headers, self.n_requests
            super().data_received(data)
            if awaited_headers and self.awaits_headers and n_requests == self.n_requests:
                self.n_header_bytes += len(data)
                if self.n_header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                    self.send_400_response("The headers of the request are too long.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.awaits_headers, self.n_header_bytes = True, 0
            self.n_requests += 1
            self._start_timer()

        def on_headers_complete(self) -> None:
            self.awaits_headers = False
            self._stop_timer()
            super().on_headers_complete()

        def _start_timer(self) -> None:
            self._stop_timer()
            self.timer = self.loop.call_later(seconds, self._close_if_idle)

        def _stop_timer(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def _close_if_idle(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()
            else:  # the response to the previous request is still being written
                self._start_timer()

    return LimitedHttpProtocol
