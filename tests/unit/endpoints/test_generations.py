"""Several generations at once: if one fails, or the consumer stops, all of them end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest

from llamafw import Delta, Finish, GenerateRequest, GenerationError, RequestError
from llamafw_plugins.endpoints.generations import generate_all, stream_all


class FakeEngine:
    """Runs one script per request, which the request's prompt selects, and records which ones are running."""

    def __init__(self, *scripts: Callable[[], AsyncIterator[Delta]]) -> None:
        self.scripts = scripts
        self.running: set[int] = set()
        self.started = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        i = request.prompt[0]
        self.running.add(i)
        if len(self.running) == len(self.scripts):
            self.started.set()
        try:
            async for delta in self.scripts[i]():
                yield delta
        finally:
            self.running.remove(i)


async def two_deltas() -> AsyncIterator[Delta]:
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
    yield Delta("")  # makes it a generator


def requests(n: int) -> list[GenerateRequest]:
    return [GenerateRequest((i,)) for i in range(n)]


async def test_generations_are_in_order_of_requests() -> None:
    engine: Any = FakeEngine(two_deltas, two_deltas, two_deltas)
    generations = await generate_all(engine, requests(3))
    assert [(each.text, each.finish.n_predicted) for each in generations] == [("ab", 2)] * 3


@pytest.mark.parametrize(
    ("script", "n", "param", "index"),
    [(failing, 1, "prompt.1", 1), (failing, 2, None, None), (broken, 1, "n_predict", 1)],
)
async def test_failure_of_one_ends_the_others(script: Any, n: int, param: str | None, index: int | None) -> None:
    engine: Any = FakeEngine(endless, script)
    with pytest.raises(RequestError) as caught:
        await asyncio.wait_for(generate_all(engine, requests(2), n), 60)
    assert (caught.value.param, caught.value.extra.get("index")) == (param, index)
    assert not engine.running


async def test_error_of_a_single_request_is_unchanged() -> None:
    engine: Any = FakeEngine(failing)
    with pytest.raises(RequestError) as caught:
        await generate_all(engine, requests(1))
    assert (caught.value.param, caught.value.extra) == (None, {})


@pytest.mark.inventory("E-075")
@pytest.mark.parametrize("n", [1, 3])
async def test_closing_the_stream_ends_all_generations(n: int) -> None:
    engine: Any = FakeEngine(*[endless] * n)
    deltas = stream_all(engine, requests(n))
    assert (await anext(deltas))[1].text == "x"
    await asyncio.wait_for(engine.started.wait(), 60)
    await deltas.aclose()
    assert not engine.running


@pytest.mark.parametrize("n", [1, 3])
async def test_cancellation_ends_all_generations(n: int) -> None:
    engine: Any = FakeEngine(*[endless] * n)
    task = asyncio.create_task(generate_all(engine, requests(n)))
    await asyncio.wait_for(engine.started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not engine.running


async def test_slow_consumer_limits_buffered_deltas() -> None:
    n_made = 0

    async def eager() -> AsyncIterator[Delta]:
        nonlocal n_made
        for _ in range(1000):
            n_made += 1
            yield Delta("x")
        yield Delta("", finish=Finish("limit"))

    engine: Any = FakeEngine(eager, eager)
    deltas = stream_all(engine, requests(2))
    await anext(deltas)
    for _ in range(100):
        await asyncio.sleep(0)
    assert n_made < 50
    await deltas.aclose()
