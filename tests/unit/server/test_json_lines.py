"""Lines of JSON: their format, their errors, and their validation against the API document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llamafw import Problem, RequestError, json_lines

PLUGIN = """
from llamafw import RequestError, hookimpl, json_lines

NUMBER = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}}
LINE = {"anyOf": [NUMBER, {"type": "object", "required": ["error"]}]}
CONTENT = {"application/x-ndjson": {"schema": {"type": "string"}, "x-llamafw-event": LINE}}
RESPONSES = {"200": {"description": "ok", "content": CONTENT}, "400": {"$ref": "#/components/responses/BadRequest"}}
API = {"paths": {"/numbers": {"get": {"operationId": "numbers", "summary": "Numbers.", "responses": RESPONSES,
    "parameters": [{"name": "fail_at", "in": "query", "schema": {"type": "integer", "default": -1}}],
}}}}


@hookimpl
def extend_openapi(): return API


async def numbers(fail_at):
    for n in range(3):
        if n == fail_at:
            raise RequestError("no more")
        yield {"n": 7 if fail_at != 9 else n * 20}


@hookimpl
def register_endpoints(register, app):
    async def answer(call): return json_lines(numbers(call.query["fail_at"]))

    register("numbers", answer)
"""


async def messages_of(items: AsyncIterator[Any], **options: Any) -> list[Any]:
    """Return the ASGI messages of a stream of lines."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    messages: list[Any] = []
    await json_lines(items, **options)({"type": "http", "method": "GET", "path": "/"}, receive, send)
    return messages


async def three_items() -> AsyncIterator[Any]:
    for item in ({"a": 1}, [2], "é\n"):
        yield item


async def failing_items() -> AsyncIterator[Any]:
    yield {"a": 1}
    raise RequestError("stop", param="x")


async def test_items_are_lines() -> None:
    start, *rest = await messages_of(three_items())
    assert dict(start["headers"])[b"content-type"] == b"application/x-ndjson"
    assert dict(start["headers"])[b"cache-control"] == b"no-store"
    body = b"".join(message["body"] for message in rest)
    assert [json.loads(line) for line in body.splitlines()] == [{"a": 1}, [2], "é\n"]
    assert body.endswith(b"\n")


async def test_lines_are_not_compressed(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "numbers.py").write_text(PLUGIN)
    async with serve(plugin=(str(tmp_path / "numbers.py"),)) as client:
        for _ in range(2):  # a stream does not change the headers of the next one
            response = await client.get("/numbers", headers={"accept-encoding": "gzip"})
            assert response.text == '{"n":7}\n' * 3
            assert "content-encoding" not in response.headers


async def test_middleware_may_change_the_headers_of_one_stream() -> None:
    for _ in range(2):
        start, *_ = await messages_of(three_items())
        assert b"x-new" not in dict(start["headers"])
        start["headers"].append((b"x-new", b"1"))


async def test_an_error_is_the_last_line() -> None:
    *_, last = await messages_of(failing_items())
    assert json.loads(last["body"])["error"]["param"] == "x"


async def test_error_lines_can_have_another_form() -> None:
    def lines(problem: Problem) -> list[Any]:
        return [{"error": problem.message}, "end"]

    *_, last = await messages_of(failing_items(), on_error=lines)
    assert last == {"type": "http.response.body", "body": b'{"error":"stop"}\n"end"\n', "more_body": False}


async def test_lines_are_validated(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "numbers.py").write_text(PLUGIN)
    async with serve(plugin=(str(tmp_path / "numbers.py"),)) as client:
        valid = (await client.get("/numbers")).text
        wrong = (await client.get("/numbers?fail_at=9")).text
        early, late = (await client.get("/numbers?fail_at=0")), (await client.get("/numbers?fail_at=2")).text

    assert valid == '{"n":7}\n' * 3
    assert wrong.startswith('{"n":0}\n{"error":')
    assert "a line is wrong" in wrong
    assert early.status_code == 400
    assert late.count("\n") == 3
    assert json.loads(late.splitlines()[-1])["error"]["message"] == "no more"


@pytest.mark.parametrize("n_read", [0, 1])
async def test_the_iterator_is_closed(n_read: int) -> None:
    closed = []

    async def items() -> AsyncIterator[Any]:
        try:
            yield 1
            raise RequestError("end")
        finally:
            closed.append(True)

    stream = items()
    if n_read:
        await messages_of(stream)
    else:
        response: Any = json_lines(stream)
        await anext(stream)
        await response.close()
    assert closed == [True]
