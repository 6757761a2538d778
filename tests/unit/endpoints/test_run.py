"""Several generations at once: one fails, all end; nobody listens any more, all end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llamafw import Delta, Finish, GenerateRequest, GenerationError, RequestError
from llamafw_plugins.endpoints.run import collect, stream


class FakeEngine:
    """Plays one script per request; the request's prompt says which. Keeps book of what runs."""

    n_slots, n_ctx = 4, 8

    def __init__(self, *scripts: Callable[[], AsyncIterator[Delta]]) -> None:
        self.scripts = scripts
        self.running: set[int] = set()
        self.started = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        i = request.prompt[0]
        self.running.add(i)
        if len(self.running) == len(self.scripts):
            self.started.set()
        try:
            async for delta in self.scripts[i]():
                yield delta
        finally:
            self.running.remove(i)

    async def stop(self, grace: float) -> None:
        """Nothing to stop."""


async def two() -> AsyncIterator[Delta]:
    yield Delta("a")
    yield Delta("b", finish=Finish("eos", n_predicted=2))


async def endless() -> AsyncIterator[Delta]:
    yield Delta("x")
    await asyncio.Event().wait()


async def failing() -> AsyncIterator[Delta]:
    yield Delta("y")
    raise RequestError("no")


async def broken() -> AsyncIterator[Delta]:
    raise GenerationError("the model failed", param="n_predict")
    yield Delta("")


def requests(n: int) -> list[GenerateRequest]:
    return [GenerateRequest((i,)) for i in range(n)]


async def test_answers_are_in_order() -> None:
    answers = await collect(FakeEngine(two, two, two), requests(3))
    assert [(answer.text, answer.finish.n_predicted) for answer in answers] == [("ab", 2)] * 3


@pytest.mark.parametrize(
    ("script", "n", "param", "index"),
    [(failing, 1, "prompt.1", 1), (failing, 2, None, None), (broken, 1, "n_predict", 1)],
)
async def test_if_one_fails_the_others_end(script: Any, n: int, param: str | None, index: int | None) -> None:
    engine = FakeEngine(endless, script)
    with pytest.raises(RequestError) as caught:
        await asyncio.wait_for(collect(engine, requests(2), n), 10)
    assert (caught.value.param, caught.value.extra.get("index")) == (param, index)
    assert not engine.running


async def test_an_error_of_the_only_request_is_left_as_it_is() -> None:
    with pytest.raises(RequestError) as caught:
        await collect(FakeEngine(failing), requests(1))
    assert (caught.value.param, caught.value.extra) == (None, {})


@pytest.mark.inventory("E-075")
@pytest.mark.parametrize("n", [1, 3])
async def test_closing_the_stream_ends_all(n: int) -> None:
    engine = FakeEngine(*[endless] * n)
    pieces = stream(engine, requests(n))
    assert (await anext(pieces))[1].text == "x"
    await asyncio.wait_for(engine.started.wait(), 10)
    await pieces.aclose()
    assert not engine.running


@pytest.mark.parametrize("n", [1, 3])
async def test_cancelling_ends_all(n: int) -> None:
    engine = FakeEngine(*[endless] * n)
    task = asyncio.create_task(collect(engine, requests(n)))
    await asyncio.wait_for(engine.started.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not engine.running


async def test_a_slow_reader_holds_the_writers_back() -> None:
    made = 0

    async def eager() -> AsyncIterator[Delta]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield Delta("x")
        yield Delta("", finish=Finish("limit"))

    pieces = stream(FakeEngine(eager, eager), requests(2))
    await anext(pieces)
    for _ in range(100):
        await asyncio.sleep(0)
    assert made < 50
    await pieces.aclose()
