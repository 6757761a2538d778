"""Send the items of an async iterator as server-sent events: ``data: {json}``, optionally with a name and an id.

The format is described at https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamafw.errors import FAULTS
from llamafw.server.disconnect import CancelOnDisconnect
from llamafw.server.errors import envelope, log_failure, problem_of
from llamafw.server.responses import to_json
from llamafw.types import Problem

Explain = Callable[[BaseException], Problem]
OnError = Callable[[Problem], Iterable[Any]]

_END: Any = object()  # marks the end of the events
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

    The response starts with the first event. An exception before it becomes an ordinary HTTP error; a later one becomes
    the last event, ``{"error": {...}}``. If the client disconnects, the iterator is closed.

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

    def __init__(self, events: AsyncIterator[Any], *, done: bool = False, on_error: OnError = error_event) -> None:
        super().__init__(media_type="text/event-stream")
        self.events, self.done, self.on_error = events, done, on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events.

        The dispatcher calls `stream` instead, which lets plugins explain errors.
        """
        await self.stream(scope, receive, send, problem_of)

    async def stream(self, scope: Scope, receive: Receive, send: Send, explain: Explain) -> None:
        """Send the events; ``explain`` turns an exception among them into the error that the client receives."""
        try:
            async with CancelOnDisconnect(receive):
                await self._send_events(scope, send, explain)
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
            return b"data: " + to_json(item) + b"\n\n"
        name = f"event: {item.event}\n" if item.event is not None else ""
        id = f"id: {item.id}\n" if item.id is not None else ""
        return name.encode() + id.encode() + b"data: " + to_json(item.data) + b"\n\n"

    async def _send_events(self, scope: Scope, send: Send, explain: Explain) -> None:
        item = await anext(self.events, _END)
        await send({"type": "http.response.start", "status": 200, "headers": self.start_headers})

        last = b"data: [DONE]\n\n" if self.done else b""
        try:
            while item is not _END:
                await send({"type": "http.response.body", "body": self.encode(item), "more_body": True})
                item = await anext(self.events, _END)
        except ClientDisconnect:
            raise
        except FAULTS as error:
            problem = explain(error)
            log_failure(scope, error, problem)
            last = b"".join(map(self.encode, self.on_error(problem)))
        await send({"type": "http.response.body", "body": last, "more_body": False})


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
