"""Let the streams of requests with the header ``X-Conversation-Id`` go on when their connection ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw import RequestError, TooManyRequests
from llamafw_plugins.resumable_streams.buffers import StreamBuffer, StreamBuffers, user_name

HEADER = "x-conversation-id"
MAX_ID_CHARACTERS = 256
RETRY_SECONDS = 10


class ResumableMiddleware:
    """Keeps the streams of POST requests that have the header; other responses are passed on unchanged."""

    def __init__(self, app: ASGIApp, buffers: StreamBuffers) -> None:
        self.app, self._buffers = app, buffers
        self._tasks: set[asyncio.Task[None]] = set()  # keeps references to the tasks of streams without a client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        id = Headers(scope=scope).get(HEADER) if scope["type"] == "http" and scope["method"] == "POST" else None
        if not id:
            await self.app(scope, receive, send)
            return
        if len(id) > MAX_ID_CHARACTERS:
            raise RequestError(f"the header X-Conversation-Id must have at most {MAX_ID_CHARACTERS} characters")
        if self._buffers.is_full:
            message = "too many resumable streams are running; wait until one ends, or send no X-Conversation-Id"
            raise TooManyRequests(message, RETRY_SECONDS)

        scope.setdefault("state", {})  # authentication puts the user there
        request = _Request(scope, receive, send, id, self._buffers)
        task = asyncio.create_task(request.run(self.app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await request.answer(task)
        except asyncio.CancelledError:
            if request.buffer is None:
                task.cancel()
            raise


class _Request:
    """One request: the application runs in a task of its own, and the client reads what it sends."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, id: str, buffers: StreamBuffers) -> None:
        self.buffer: StreamBuffer | None = None  # once a stream has started
        self._scope, self._receive, self._send = scope, receive, send
        self._id, self._buffers = id, buffers
        self._start: Message | None = None  # of a stream
        self._started = asyncio.Event()  # a stream has started
        self._has_body = False  # the body of the request has been read
        self._must_stop = asyncio.Event()

    async def run(self, app: ASGIApp) -> None:
        """Run the application, whether the client is there or not."""
        try:
            await app(self._scope, self._receive_for_app, self._send_from_app)
        finally:
            if self.buffer is not None:
                self.buffer.finish()

    async def answer(self, task: asyncio.Task[None]) -> None:
        """Send the stream while the client reads it; if the response is not a stream, wait for its end."""
        started = asyncio.create_task(self._started.wait())
        await asyncio.wait((started, task), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self.buffer is None or self._start is None:
            await task
            return

        sending = asyncio.create_task(self._send_stream(self._start, self.buffer))
        leaving = asyncio.create_task(self._wait_for_disconnect())
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        for part in (sending, leaving):
            part.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending

    async def _send_stream(self, start: Message, buffer: StreamBuffer) -> None:
        await self._send(start)
        async with contextlib.aclosing(buffer.read()) as pieces:
            async for piece in pieces:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _receive_for_app(self) -> Message:
        """Return the body of the request; then wait until the generation must end."""
        if not self._has_body:
            message = await self._receive()
            self._has_body = not message.get("more_body", False)
            return message
        if self.buffer is None:  # until the stream has started, the client's connection counts
            waits: list[asyncio.Task[Any]] = [
                asyncio.create_task(self._wait_for_disconnect()),
                asyncio.create_task(self._started.wait()),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if not self._started.is_set():
                return {"type": "http.disconnect"}
        await self._must_stop.wait()
        return {"type": "http.disconnect"}

    async def _send_from_app(self, message: Message) -> None:
        if self.buffer is not None:
            self.buffer.append(message.get("body", b""))
            return
        if message["type"] == "http.response.start" and _is_stream(message):
            user = user_name(self._scope["state"].get("user"))
            self.buffer, self._start = StreamBuffer(user, self._id, self._must_stop.set), message
            self._buffers.add(self.buffer)
            self._started.set()
            return
        await self._send(message)


def _is_stream(start: Message) -> bool:
    headers = Headers(raw=start.get("headers", []))
    return bool(start["status"] == 200 and headers.get("content-type", "").startswith("text/event-stream"))
