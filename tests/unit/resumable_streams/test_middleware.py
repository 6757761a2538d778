"""Streams of requests with ``X-Conversation-Id`` outlast their connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llamafw import TooManyRequests, User
from llamafw.errors import RequestError
from llamafw_plugins.resumable_streams import buffers as module
from llamafw_plugins.resumable_streams.buffers import StreamBuffer, StreamBuffers
from llamafw_plugins.resumable_streams.middleware import ResumableMiddleware

pytestmark = pytest.mark.timeout(60)

BODY = {"type": "http.request", "body": b"{}", "more_body": False}


class Generation:
    """An application that streams what a test puts into its queue, until None or the end of its connection."""

    def __init__(self, content_type: bytes = b"text/event-stream", user: User | None = None) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.content_type, self.user = content_type, user
        self.was_disconnected = self.has_ended = False
        self.body = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["user"] = self.user
        self.body = (await receive())["body"]
        producing = asyncio.create_task(self._produce(send))
        watching = asyncio.create_task(receive())
        await asyncio.wait((producing, watching), return_when=asyncio.FIRST_COMPLETED)
        self.was_disconnected = not producing.done()
        for task in (producing, watching):
            task.cancel()
        self.has_ended = True

    async def _produce(self, send: Any) -> None:
        data = await self.queue.get()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", self.content_type)]})
        while data is not None:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            data = await self.queue.get()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Client:
    """The client of one request."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.news = asyncio.Condition()
        self.gone = asyncio.Event()
        self._has_sent = False

    async def receive(self) -> Any:
        if not self._has_sent:
            self._has_sent = True
            return BODY
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        async with self.news:
            self.messages.append(message)
            self.news.notify_all()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    async def wait_for(self, text: bytes) -> None:
        async with self.news:
            await self.news.wait_for(lambda: text in self.body)


def scope(id: str | None = "c1", method: str = "POST") -> Any:
    headers = [] if id is None else [(b"x-conversation-id", id.encode())]
    return {"type": "http", "method": method, "headers": headers, "state": {}}


@pytest.fixture
def buffers() -> StreamBuffers:
    return StreamBuffers()


@pytest.fixture
def client() -> Client:
    return Client()


async def until(condition: Any) -> None:
    """Wait until a condition holds that other tasks of this loop bring about."""
    while not condition():  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0)


def get(buffers: StreamBuffers, user: str = "", id: str = "c1") -> StreamBuffer:
    buffer = buffers.get(user, id)
    assert buffer is not None
    return buffer


@pytest.mark.inventory("T-10")
async def test_the_generation_goes_on_without_its_client(buffers: StreamBuffers, client: Client) -> None:
    app = Generation()
    request = asyncio.create_task(ResumableMiddleware(app, buffers)(scope(), client.receive, client.send))
    app.queue.put_nowait(b"data: 1\n\n")
    await client.wait_for(b"data: 1\n\n")
    client.gone.set()
    await request
    assert not app.has_ended

    for data in (b"data: 2\n\n", b"data: 3\n\n", None):
        app.queue.put_nowait(data)
    buffer = get(buffers)
    pieces = [piece async for piece in buffer.read(len(b"data: 1\n\n"))]  # reads until the end
    assert b"".join(pieces) == b"data: 2\n\ndata: 3\n\n"
    assert (buffer.done, app.was_disconnected, app.body) == (True, False, b"{}")
    assert client.body == b"data: 1\n\n"


async def test_a_client_that_stays_gets_the_whole_stream(buffers: StreamBuffers, client: Client) -> None:
    app = Generation()
    for data in (b"a", b"b", None):
        app.queue.put_nowait(data)
    await ResumableMiddleware(app, buffers)(scope(), client.receive, client.send)
    assert client.messages[0]["status"] == 200
    assert client.body == b"ab"
    assert client.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(("id", "method"), [(None, "POST"), ("", "POST"), ("c1", "GET")])
async def test_other_requests_are_passed_on(
    buffers: StreamBuffers, client: Client, id: str | None, method: str
) -> None:
    app = Generation()
    request = asyncio.create_task(ResumableMiddleware(app, buffers)(scope(id, method), client.receive, client.send))
    app.queue.put_nowait(b"a")
    await client.wait_for(b"a")
    client.gone.set()
    await request
    assert app.was_disconnected
    assert buffers.get("", "c1") is None


async def test_responses_that_are_not_streams_are_passed_on(buffers: StreamBuffers, client: Client) -> None:
    app = Generation(b"application/json")
    for data in (b"{}", None):
        app.queue.put_nowait(data)
    await ResumableMiddleware(app, buffers)(scope(), client.receive, client.send)
    assert client.body == b"{}"
    assert buffers.get("", "c1") is None


async def test_a_client_that_leaves_before_the_stream_starts_ends_it(buffers: StreamBuffers, client: Client) -> None:
    app = Generation()
    request = asyncio.create_task(ResumableMiddleware(app, buffers)(scope(), client.receive, client.send))
    await until(lambda: app.body)
    client.gone.set()
    await request
    assert app.was_disconnected


async def test_errors_before_the_stream_are_raised(buffers: StreamBuffers, client: Client) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RequestError("no")

    with pytest.raises(RequestError, match="no"):
        await ResumableMiddleware(app, buffers)(scope(), client.receive, client.send)
    with pytest.raises(RequestError, match="at most 256 characters"):
        await ResumableMiddleware(app, buffers)(scope("c" * 257), client.receive, client.send)


async def started(buffers: StreamBuffers, id: str = "c1", user: User | None = None) -> tuple[Generation, Client]:
    """Start a stream whose client leaves after its first byte."""
    app, client = Generation(user=user), Client()
    request = asyncio.create_task(ResumableMiddleware(app, buffers)(scope(id), client.receive, client.send))
    app.queue.put_nowait(b"a")
    await client.wait_for(b"a")
    client.gone.set()
    await request
    return app, client


async def test_a_new_stream_of_the_conversation_ends_the_former(buffers: StreamBuffers) -> None:
    first, _ = await started(buffers)
    second, _ = await started(buffers)
    await until(lambda: first.has_ended)
    assert first.was_disconnected
    assert not second.has_ended
    buffers.stop_all()
    await until(lambda: second.has_ended)


async def test_users_have_their_own_streams(buffers: StreamBuffers) -> None:
    await started(buffers, user=User("ann"))
    await started(buffers, user=User("bob"))
    assert buffers.get("", "c1") is None
    assert get(buffers, "ann") is not get(buffers, "bob")
    buffers.stop_all()


async def test_unused_streams_end(buffers: StreamBuffers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.01)
    app, _ = await started(buffers)
    async with asyncio.timeout(30):
        await until(lambda: app.has_ended)
    assert buffers.get("", "c1") is None


async def test_streams_with_a_reader_are_kept(buffers: StreamBuffers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.01)
    app, _ = await started(buffers)
    reader: AsyncIterator[bytes] = get(buffers).read()
    assert await anext(reader) == b"a"
    await asyncio.sleep(0.05)  # the time is over
    assert not app.has_ended
    app.queue.put_nowait(b"b")
    assert await anext(reader) == b"b"
    buffers.stop_all()


async def test_the_number_of_streams_is_limited(buffers: StreamBuffers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 2)
    (first, _), (second, _) = await started(buffers, "1"), await started(buffers, "2")
    client = Client()
    with pytest.raises(TooManyRequests, match="too many resumable streams"):
        await ResumableMiddleware(Generation(), buffers)(scope("3"), client.receive, client.send)

    first.queue.put_nowait(None)
    await until(lambda: first.has_ended)
    await started(buffers, "3")  # takes the place of the one that has ended
    assert buffers.get("", "1") is None
    assert not second.has_ended
    buffers.stop_all()


async def test_the_first_bytes_of_long_streams_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 4)
    buffer = StreamBuffer("", "c", lambda: None)
    for data in (b"ab", b"cd", b"ef"):
        buffer.append(data)
    buffer.finish()
    assert (buffer.n_dropped, buffer.n_total) == (2, 6)
    assert [piece async for piece in buffer.read(3)] == [b"def"]
    assert [piece async for piece in buffer.read(0)] == []  # these bytes are gone
