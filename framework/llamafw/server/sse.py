"""Send the items of an async iterator as server-sent events: ``data: {json}``, optionally with a name and an id.

The format is described at https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamafw.errors import FAULTS
from llamafw.server.disconnect import CancelOnDisconnect
from llamafw.server.errors import envelope, log_failure, problem_of
from llamafw.server.responses import to_json_line
from llamafw.types import Problem

Explain = Callable[[BaseException], Problem]
OnError = Callable[[Problem], Iterable[Any]]

MAX_START_SECONDS = 1.0
"""How long a stream waits for its first event before it sends the headers: until then, an error is an HTTP error."""

PING = b":\n\n"
"""A comment, which clients ignore. Proxies close connections on which nothing arrives while a request waits."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx buffers the events
]


def error_event(problem: Problem) -> Iterator[Any]:
    """Yield the data of the event that ends a stream with an error."""
    yield envelope(problem)


def event_stream(events: AsyncIterator[Any], *, done: bool = False, on_error: OnError = error_event) -> Response:
    """Return a response that sends each item of ``events`` as an event as soon as it is available.

    The response starts with the first event, or after a second. An exception before that becomes an ordinary HTTP
    error; a later one becomes the last event, ``{"error": {...}}``. If the client disconnects, the iterator is closed.

    While no event is available, comments are sent every ``--sse-ping-interval`` seconds.

    Parameters
    ----------
    events : async iterator
        Yields values that orjson can write, or a `ServerSentEvent` for an event with a name or an id.
    done : bool
        Whether to send ``data: [DONE]`` after the last event, as OpenAI does.
    on_error : callable, optional
        Returns the events that end the stream after an exception, for a protocol with error events of its own.
    """
    return EventStream(events, done=done, on_error=on_error)


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An item of an `event_stream` that has a name or an id.

    Raises
    ------
    ValueError
        The name or the id contains a line break or a null character, which the format cannot represent.
    """

    data: Any  # anything orjson can write
    event: str | None = None  # name, for which clients listen; without one it is "message"
    id: str | None = None  # browsers that reconnect send the last one in the header Last-Event-ID

    def __post_init__(self) -> None:
        for field, value in (("event", self.event), ("id", self.id)):
            if value is not None and any(character in value for character in "\r\n\0"):
                raise ValueError(f"{field} is {value!r}, which contains a line break or a null character")


class EventStream(Response):
    """A response that consists of server-sent events.

    Subclasses have other formats of items.
    """

    start_headers = _HEADERS
    ping = PING  # is sent to keep a connection open while no event is available; empty: nothing is sent

    def __init__(self, events: AsyncIterator[Any], *, done: bool = False, on_error: OnError = error_event) -> None:
        super().__init__(media_type="text/event-stream")
        self.events, self.done, self.on_error = events, done, on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events.

        The dispatcher calls `stream` instead, which lets plugins explain errors.
        """
        await self.stream(scope, receive, send, problem_of)

    async def stream(
        self, scope: Scope, receive: Receive, send: Send, explain: Explain, ping_seconds: float | None = None
    ) -> None:
        """Send the events.

        Parameters
        ----------
        explain : callable
            Turns an exception among the events into the error that the client receives.
        ping_seconds : float, optional
            Send a comment when no event was available for so long; None: never.
        """
        try:
            async with CancelOnDisconnect(receive):
                await self._send_events(scope, _EventWriter(send, self.start_headers, self.ping), explain, ping_seconds)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the iterator of the events."""
        close = getattr(self.events, "aclose", None)
        if close is not None:
            await close()

    def encode(self, item: Any) -> bytes:
        """Return the bytes of one item."""
        if not isinstance(item, ServerSentEvent):
            return b"data: " + to_json_line(item) + b"\n\n"
        name = f"event: {item.event}\n" if item.event is not None else ""
        id = f"id: {item.id}\n" if item.id is not None else ""
        return name.encode() + id.encode() + b"data: " + to_json_line(item.data) + b"\n\n"

    async def _send_events(
        self, scope: Scope, writer: _EventWriter, explain: Explain, ping_seconds: float | None
    ) -> None:
        async with writer.pinging(ping_seconds):
            last = b"data: [DONE]\n\n" if self.done else b""
            try:
                async for item in self.events:
                    await writer.write(self.encode(item))
            except ClientDisconnect:
                raise
            except FAULTS as error:
                if not writer.has_started:
                    raise
                problem = explain(error)
                log_failure(scope, error, problem)
                last = b"".join(map(self.encode, self.on_error(problem)))
            await writer.write(last, more=False)


class _EventWriter:
    """Writes one stream: the headers before the first event, and comments while no event is available."""

    def __init__(self, send: Send, headers: Sequence[tuple[bytes, bytes]], ping: bytes) -> None:
        self.has_started = False
        self._send, self._headers, self._ping_bytes = send, headers, ping
        self._lock = asyncio.Lock()  # the headers must be sent before the first comment or event
        self._last = 0.0  # when something was written, in the time of the event loop
        self._pings: asyncio.Task[None] | None = None

    async def write(self, body: bytes, *, more: bool = True) -> None:
        async with self._lock:
            if not self.has_started:
                self.has_started = True
                headers = [*self._headers]  # middleware changes this list
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._last = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def pinging(self, seconds: float | None) -> AsyncIterator[None]:
        """Start the response soon, and send comments every ``seconds``, while the block runs.

        If a comment cannot be sent, the block is cancelled and ends with ClientDisconnect.
        """
        task = asyncio.current_task()
        assert task is not None  # this is a coroutine

        def start() -> None:
            self._pings = loop.create_task(self._ping(seconds))
            self._pings.add_done_callback(cancel_if_failed)

        def cancel_if_failed(pings: asyncio.Task[None]) -> None:
            if not pings.cancelled() and pings.exception() is not None:
                task.cancel()

        loop = asyncio.get_running_loop()
        # Most streams have ended before, and need no task.
        timer = loop.call_later(MAX_START_SECONDS, start)
        try:
            yield
        except asyncio.CancelledError:
            if self._pings is None or not self._pings.done() or self._pings.cancelled():
                raise
            task.uncancel()
            raise ClientDisconnect from None
        finally:
            timer.cancel()
            if self._pings is not None:
                self._pings.cancel()

    async def _ping(self, seconds: float | None) -> None:
        if not self.has_started:
            await self.write(self._ping_bytes)
        while seconds is not None and self._ping_bytes:
            wait = self._last + seconds - asyncio.get_running_loop().time()
            if wait <= 0:
                await self.write(self._ping_bytes)
            else:
                await asyncio.sleep(wait)


def is_comment(event: bytes) -> bool:
    """Return whether an event consists of comments, as `PING` does."""
    return all(line.startswith(b":") for line in event.split(b"\n"))


def event_data(event: bytes) -> bytes | None:
    """Return the JSON of an event in the form that `EventStream` writes.

    None if the event has other fields than a name and an id, or does not have exactly one line of data.

    Parameters
    ----------
    event : bytes
        The event without the blank line at its end.
    """
    lines = [line for line in event.split(b"\n") if not line.startswith((b"event: ", b"id: "))]
    return lines[0].removeprefix(b"data: ") if len(lines) == 1 and lines[0].startswith(b"data: ") else None
