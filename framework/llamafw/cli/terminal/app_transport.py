"""Pass requests of an HTTP client to an ASGI application in this process, and stream its responses.

The transport of the HTTP library itself returns a response only when all of it has been sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from starlette.types import ASGIApp, Message


class AppTransport(httpx2.AsyncBaseTransport):
    """Calls an ASGI application, as a server would.

    Parameters
    ----------
    asgi : ASGIApp
        The application. Its lifespan is up to the caller.
    """

    def __init__(self, asgi: ASGIApp) -> None:
        self._asgi = asgi

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response as soon as it starts; its body is read while the application sends it."""
        exchange = _Exchange(await request.aread())
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": ("127.0.0.1", 0),
            "state": {},
        }
        exchange.task = asyncio.create_task(self._call(scope, exchange))
        try:
            status, headers = await exchange.started
        except asyncio.CancelledError:
            await exchange.aclose()
            raise
        return httpx2.Response(status, headers=headers, stream=exchange)

    async def _call(self, scope: dict[str, Any], exchange: _Exchange) -> None:
        try:
            await self._asgi(scope, exchange.receive, exchange.send)
        except Exception as error:
            exchange.fail(error)
        else:
            exchange.fail(httpx2.RemoteProtocolError("the application did not send a complete response"))


class _Exchange(httpx2.AsyncByteStream):
    """One request and its response, between the application and the client."""

    task: asyncio.Task[None]

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()  # None: the response is complete
        self._closed = asyncio.Event()
        self.started: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = asyncio.Future()

    async def receive(self) -> Message:
        """Return the request's body, and later that the client has gone."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the response."""
        if message["type"] == "http.response.start" and not self.started.done():  # done: the client has gone
            self.started.set_result((message["status"], list(message["headers"])))
        elif message["type"] == "http.response.body":
            self._parts.put_nowait(message.get("body", b""))
            if not message.get("more_body", False):
                self._parts.put_nowait(None)

    def fail(self, error: Exception) -> None:
        """Report that the application has ended; without effect after a complete response."""
        if not self.started.done():
            self.started.set_exception(error)
        self._parts.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the parts of the response's body."""
        while (part := await self._parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        """Tell the application that the client has gone, and wait until it has ended."""
        self._closed.set()
        await asyncio.wait([self.task])
