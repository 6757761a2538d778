"""Server-sent events: their format, their names and ids, and their validation against the API document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from llamafw import Problem, RequestError, ServerSentEvent, event_stream, json_lines
from llamafw.server import sse
from llamafw.server.errors import problem_of
from llamafw.server.sse import EventStream
from support.api_client import OpenClient

PLUGIN = """
from llamafw import Problem, RequestError, ServerSentEvent, event_stream, hookimpl

NUMBER = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}}
CONTENT = {"text/event-stream": {"schema": {"type": "string"}, "x-llamafw-event": NUMBER}}
API = {"paths": {"/numbers": {"post": {
    "operationId": "numbers", "summary": "Numbers.", "responses": {"200": {"description": "ok", "content": CONTENT}},
}}}}


@hookimpl
def extend_openapi(): return API


async def events():
    yield {"n": 1}
    yield ServerSentEvent({"n": 2}, event="two", id="b")
    yield ServerSentEvent({"n": "three"}, event="three")


@hookimpl
def register_endpoints(register, app):
    async def numbers(call): return event_stream(events())

    register("numbers", numbers)
"""


async def body_of(*items: Any, stream: Callable[[AsyncIterator[Any]], Any] = event_stream) -> bytes:
    """Return the body of a stream of events."""

    async def events() -> AsyncIterator[Any]:
        for item in items:
            yield item

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        chunks.append(message.get("body", b""))

    chunks: list[bytes] = []
    await stream(events())({"type": "http"}, receive, send)
    return b"".join(chunks)


async def test_items_are_events_without_a_name() -> None:
    assert await body_of({"a": 1}, [2], "é\n") == 'data: {"a":1}\n\ndata: [2]\n\ndata: "é\\n"\n\n'.encode()


@pytest.mark.parametrize("stream", [event_stream, json_lines])
async def test_no_text_divides_an_event_into_lines(stream: Callable[[AsyncIterator[Any]], Any]) -> None:
    """Clients may read lines with `str.splitlines`, as httpx does."""
    text = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA1), *range(0x2020, 0x2030)]))
    body = await body_of({text: text}, stream=stream)
    (line,) = [line for line in body.decode().splitlines() if line]
    assert json.loads(line.removeprefix("data: ")) == {text: text}


async def test_events_may_have_a_name_and_an_id() -> None:
    assert await body_of(ServerSentEvent({"a": 1}, event="end")) == b'event: end\ndata: {"a":1}\n\n'
    assert await body_of(ServerSentEvent(None, event="ping", id="7")) == b"event: ping\nid: 7\ndata: null\n\n"
    assert await body_of(ServerSentEvent([])) == b"data: []\n\n"


async def test_protocol_may_have_error_events_of_its_own() -> None:
    async def events() -> AsyncIterator[Any]:
        yield 1
        raise RequestError("it broke", param="n")

    def on_error(problem: Problem) -> Iterator[Any]:
        yield ServerSentEvent({"message": problem.message, "param": problem.param}, event="error")
        yield {"end": True}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        chunks.append(message.get("body", b""))

    chunks: list[bytes] = []
    await event_stream(events(), on_error=on_error)({"type": "http", "method": "GET", "path": "/"}, receive, send)
    assert b"".join(chunks) == (
        b'data: 1\n\nevent: error\ndata: {"message":"it broke","param":"n"}\n\ndata: {"end":true}\n\n'
    )


@pytest.mark.parametrize("value", ["a\nb", "a\r", "\0"])
def test_names_and_ids_are_one_line(value: str) -> None:
    with pytest.raises(ValueError, match="event is .* line break"):
        ServerSentEvent({}, event=value)
    with pytest.raises(ValueError, match="id is .* line break"):
        ServerSentEvent({}, id=value)


async def test_named_events_are_validated(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "numbers.py").write_text(PLUGIN)
    async with serve(plugin=(str(tmp_path / "numbers.py"),)) as client:
        first, second, third, rest = (await client.post("/numbers")).text.split("\n\n")
    assert (first, second, rest) == ('data: {"n":1}', 'event: two\nid: b\ndata: {"n":2}', "")
    assert "the response breaks the API document" in third
    assert "n must be an integer" in third


class Connection:
    """The two sides of a response: what was sent, and a client that stays until `gone` is set."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.sent = asyncio.Condition()
        self.gone = asyncio.Event()
        self.failure: Exception | None = None

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.failure:
            raise self.failure
        async with self.sent:
            self.messages.append(message)
            self.sent.notify_all()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    async def wait_for(self, text: bytes) -> None:
        async with asyncio.timeout(30), self.sent:
            await self.sent.wait_for(lambda: text in self.body)


class Source:
    """Events that come when a test puts them."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False

    async def events(self) -> AsyncIterator[Any]:
        try:
            while (item := await self.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def connection() -> Connection:
    return Connection()


def running(source: Source, connection: Connection, ping_seconds: float | None) -> asyncio.Task[None]:
    """Start to send the events of ``source``."""
    stream = EventStream(source.events()).stream(
        {"type": "http"}, connection.receive, connection.send, problem_of, ping_seconds
    )
    return asyncio.ensure_future(stream)


async def test_streams_that_wait_start_and_send_comments(
    source: Source, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_START_SECONDS", 0.001)
    task = running(source, connection, 0.001)
    await connection.wait_for(b":\n\n:\n\n:\n\n")
    start = connection.messages[0]
    assert (start["type"], start["status"]) == ("http.response.start", 200)

    source.queue.put_nowait({"a": 1})
    await connection.wait_for(b'data: {"a":1}\n\n:\n\n')  # between events, too
    source.queue.put_nowait(None)
    await task
    assert connection.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert [message["type"] for message in connection.messages].count("http.response.start") == 1
    lines = set(connection.body.split(b"\n\n"))
    assert lines == {b":", b'data: {"a":1}', b""}


async def test_without_an_interval_only_the_start_is_sent(
    source: Source, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_START_SECONDS", 0.001)
    task = running(source, connection, None)
    await connection.wait_for(b":\n\n")
    for item in (1, None):
        source.queue.put_nowait(item)
    await task
    assert connection.body == b":\n\ndata: 1\n\n"


async def test_errors_before_the_start_are_raised(source: Source, connection: Connection) -> None:
    source.queue.put_nowait(RequestError("too late"))
    with pytest.raises(RequestError, match="too late"):
        await running(source, connection, 30)
    assert connection.messages == []
    assert source.closed


async def test_errors_after_the_start_are_events(
    source: Source, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_START_SECONDS", 0.001)
    task = running(source, connection, None)
    await connection.wait_for(b":\n\n")
    source.queue.put_nowait(RequestError("too late"))
    await task
    assert connection.body.startswith(b':\n\ndata: {"error":{')
    assert b"too late" in connection.body


async def test_clients_that_leave_while_a_stream_waits_end_it(
    source: Source, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_START_SECONDS", 0.001)
    task = running(source, connection, 0.001)
    await connection.wait_for(b":\n\n")
    connection.gone.set()
    await task
    assert source.closed


async def test_comments_that_cannot_be_sent_end_the_stream(
    source: Source, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_START_SECONDS", 0.001)
    connection.failure = ClientDisconnect()
    with pytest.raises(ClientDisconnect):
        await running(source, connection, 0.001)
    assert source.closed


@pytest.mark.parametrize(
    ("interval", "field", "expected"), [(30, None, 30), (30, 5, 5), (30, -1, None), (0, None, None), (-1, 7, 7)]
)
async def test_the_interval_is_the_setting_or_the_field(
    opened: OpenClient, monkeypatch: pytest.MonkeyPatch, interval: int, field: int | None, expected: float | None
) -> None:
    seen: list[Any] = []
    stream = EventStream.stream

    async def recorded(self: EventStream, *args: Any) -> None:
        seen.append(args[-1])
        await stream(self, *args)

    monkeypatch.setattr(EventStream, "stream", recorded)
    async with opened(sse_ping_interval=interval) as client:
        await client.post("/stream", json={} if field is None else {"sse_ping_interval": field})
    assert seen == [expected]


async def test_comments_are_not_validated(opened: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pinged = asyncio.Event()

    async def ping_once(self: Any, seconds: float | None) -> None:
        await self.write(sse.PING)
        pinged.set()

    monkeypatch.setattr(sse, "MAX_START_SECONDS", 0.001)
    monkeypatch.setattr(sse._EventWriter, "_ping", ping_once)
    async with opened(validate_responses=True) as client, asyncio.timeout(30):
        call = asyncio.ensure_future(client.post("/stream", json={"n": 0, "hold": True}))
        await pinged.wait()
        await client.post("/release")
        assert (await call).text == ':\n\ndata: {"i":-1}\n\n'
