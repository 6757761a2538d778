"""Admission of requests: queue limit, timeouts, deadlines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import perf_counter

import pytest

from llamafw import (
    DeadlineExceeded,
    Floats,
    Grammar,
    GrammarContext,
    GrammarSource,
    TooManyRequests,
    Unavailable,
)
from llamafw.engine import BatchingEngine
from support.toy_model import HELLO, ToyBackend, alphabet_logits, generate_answer, random_logits, scripted_logits

Start = Callable[..., BatchingEngine]


@pytest.mark.inventory("K-02")
async def test_full_queue_is_429_with_retry_after(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend, max_queue=1)
    running = [asyncio.create_task(generate_answer(engine, (i,), n_predict=2)) for i in range(2)]
    await backend.wait_for_forward()
    with pytest.raises(TooManyRequests) as caught:
        await generate_answer(engine, (9,), n_predict=2)
    assert caught.value.status == 429
    assert 1 <= caught.value.retry_after <= 60
    assert (engine.stats().requests_rejected, engine.stats().requests_deferred) == (1, 1)
    backend.allow_forward(100)
    await asyncio.gather(*running)
    assert (await generate_answer(engine, (9,), n_predict=2)).finish.n_predicted == 2


async def test_max_queue_0_refuses_all_waiting_requests(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend, max_queue=0)
    running = asyncio.create_task(generate_answer(engine, (1,), n_predict=2))
    await backend.wait_for_forward()
    with pytest.raises(TooManyRequests):
        await generate_answer(engine, (9,), n_predict=2)
    backend.allow_forward(100)
    await running


async def test_queue_limit_holds_for_concurrent_grammar_compilations(start: Start) -> None:
    both_compile = threading.Barrier(2, timeout=30)

    class Anything:
        ended = False

        def accept(self, token: int) -> bool:
            return True

        def mask(self, logits: Floats) -> None:
            raise AssertionError("everything fits")

        def copy(self) -> Grammar:
            raise AssertionError("the grammar starts at once")

    class Compiler:
        def __init__(self, context: GrammarContext) -> None:
            pass

        def compile(self, source: str) -> Grammar:
            both_compile.wait()
            return Anything()

    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend, max_queue=0, grammars={"any": Compiler})
    tasks = [
        asyncio.create_task(generate_answer(engine, (i,), n_predict=2, grammar=GrammarSource("any", "")))
        for i in (1, 2)
    ]
    (refused,), (running,) = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(refused.exception(), TooManyRequests)
    backend.allow_forward(100)
    assert (await running).finish.n_predicted == 2


@pytest.mark.inventory("C-112", "H-16")
async def test_waiting_for_a_slot_times_out(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend, timeout=1e-6)
    running = asyncio.create_task(generate_answer(engine, (1,), n_predict=3))
    await backend.wait_for_forward()
    waiting = asyncio.create_task(generate_answer(engine, (2,), n_predict=3))
    await asyncio.sleep(0)
    assert engine.stats().requests_deferred == 1  # before the running request can end
    backend.allow_forward(100)
    with pytest.raises(Unavailable, match="no slot became free"):
        await waiting
    assert (await running).finish.n_predicted == 3  # the timeout does not apply to requests in a slot


async def test_slot_actions_time_out_on_a_busy_slot(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend, timeout=1e-6)
    running = asyncio.create_task(generate_answer(engine, (1,), n_predict=3))
    await backend.wait_for_forward()
    erase = asyncio.create_task(engine.erase_slot(0))
    await asyncio.sleep(0)  # let the task start
    backend.allow_forward(100)
    with pytest.raises(Unavailable, match="slot 0 did not become free"):
        await erase
    assert (await running).finish.n_predicted == 3


async def test_cancelled_slot_actions_are_not_executed(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend)
    running = asyncio.create_task(generate_answer(engine, (1,), n_predict=3))
    await backend.wait_for_forward()
    erase = asyncio.create_task(engine.erase_slot(0))
    await asyncio.sleep(0)
    erase.cancel()
    await asyncio.gather(erase, return_exceptions=True)
    backend.allow_forward(100)
    await running
    assert await engine.erase_slot(0) == 3  # the cache was not erased before


async def test_cancelled_requests_leave_the_queue(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend)
    running = asyncio.create_task(generate_answer(engine, (1,), n_predict=3))
    await backend.wait_for_forward()
    waiting = asyncio.create_task(generate_answer(engine, (2,), n_predict=3))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert engine.stats().requests_deferred == 0
    backend.allow_forward(100)
    await running
    assert all(2 not in batch.tokens for batch in backend.batches)


async def test_deadline_before_the_first_token_is_an_error(start: Start) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await generate_answer(start(ToyBackend(alphabet_logits)), (1,), deadline_ms=0)
    assert (caught.value.status, caught.value.param) == (504, "deadline_ms")


async def test_deadline_after_the_first_token_keeps_the_text(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ToyBackend(alphabet_logits, hold=True)
    task = asyncio.create_task(generate_answer(start(backend), (1,), n_predict=60, deadline_ms=600_000))
    await backend.wait_for_forward()
    backend.allow_forward()
    await backend.wait_for_forward()
    monkeypatch.setattr("llamafw.engine.worker.perf_counter", lambda: perf_counter() + 600)
    backend.allow_forward(100)
    got = await task
    assert got.finish.stop_type == "limit"
    assert 1 <= got.finish.n_predicted <= 2


@pytest.mark.inventory("Q-05")
async def test_t_max_predict_ends_at_the_next_newline(start: Start) -> None:
    said = scripted_logits(HELLO, ord("\n"), *[HELLO] * 9, after=1)
    got = await generate_answer(start(ToyBackend(said)), (1,), t_max_predict_ms=0)
    assert (got.text, got.finish.stop_type) == ("Hello\n", "limit")
    free = await generate_answer(start(ToyBackend(said)), (1,), t_max_predict_ms=1e8)
    assert free.finish.stop_type == "eos"


@pytest.mark.inventory("K-12", "C-101", "C-100", "K-09")
@pytest.mark.parametrize("continuous", [True, False])
async def test_continuous_batching_joins_running_sequences(start: Start, continuous: bool) -> None:
    backend = ToyBackend(alphabet_logits, n_slots=2, hold=True)
    engine = start(backend, continuous=continuous)
    first = asyncio.create_task(generate_answer(engine, (1,), n_predict=5))
    await backend.wait_for_forward()
    second = asyncio.create_task(generate_answer(engine, (2,), n_predict=5))
    await asyncio.sleep(0)
    backend.allow_forward(100)
    await asyncio.gather(first, second)
    together = any(len(set(batch.slots.tolist())) == 2 for batch in backend.batches)
    assert together == continuous
