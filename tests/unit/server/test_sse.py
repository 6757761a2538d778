"""Server-sent events: their format, their names and ids, and their validation against the API document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafw import Problem, RequestError, ServerSentEvent, event_stream

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


async def body_of(*items: Any) -> bytes:
    """Return the body of a stream of events."""

    async def events() -> AsyncIterator[Any]:
        for item in items:
            yield item

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        chunks.append(message.get("body", b""))

    chunks: list[bytes] = []
    await event_stream(events())({"type": "http"}, receive, send)
    return b"".join(chunks)


async def test_items_are_events_without_a_name() -> None:
    assert await body_of({"a": 1}, [2], "é\n") == 'data: {"a":1}\n\ndata: [2]\n\ndata: "é\\n"\n\n'.encode()


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
