"""Failures of one request do not affect others: disconnects, failing samplers and backends, shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from llamafw import (
    Batch,
    Candidates,
    Delta,
    GenerateRequest,
    GenerationError,
    JsonSchema,
    RequestError,
    Sampler,
    SamplerContext,
    Unavailable,
)
from llamafw.engine import BatchingEngine
from support.toy_model import ToyBackend, ToyTokenizer, alphabet_logits, generate_answer

Start = Callable[..., BatchingEngine]
GREEDY: dict[str, Any] = {"samplers": ("temperature",), "options": {"temperature": 0}}


def ask(engine: BatchingEngine, *prompt: int, **fields: Any) -> AsyncIterator[Delta]:
    return engine.generate(GenerateRequest(prompt, ignore_eos=True, **GREEDY | fields))


async def leave(stream: AsyncIterator[Delta]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator, and endpoints close it


# --- disconnects


@pytest.mark.inventory("E-075", "F-20")
async def test_disconnect_while_generating_frees_the_slot_within_a_token(start: Start) -> None:
    backend = ToyBackend(alphabet_logits, n_slots=1, n_ctx=10_000, hold=True)
    engine = start(backend)
    backend.allow_forward(3)
    stream = ask(engine, 1, 2, 3)
    for _ in range(3):
        await anext(stream)
    for _ in range(4):
        await backend.wait_for_forward()  # the fourth forward pass is running
    await leave(stream)
    backend.allow_forward()
    task = asyncio.create_task(generate_answer(engine, (1, 2, 3, 4), n_predict=1))
    await backend.wait_for_forward()
    assert len(backend.batches) == 5  # it was the last one for the cancelled request
    backend.allow_forward()
    got = await task
    assert got.finish.n_cached == 3  # its cache is reused


async def test_disconnect_while_waiting_leaves_the_queue(start: Start) -> None:
    backend = ToyBackend(n_slots=1, hold=True)
    engine = start(backend)
    first = asyncio.create_task(generate_answer(engine, (1,), n_predict=2))
    await backend.wait_for_forward()
    waiting = [asyncio.create_task(generate_answer(engine, (2, i), n_predict=1)) for i in range(5)]
    await asyncio.sleep(0)
    for task in waiting[:4]:
        task.cancel()
    left = await asyncio.gather(*waiting[:4], return_exceptions=True)
    assert {type(error) for error in left} == {asyncio.CancelledError}
    backend.allow_forward(100)
    await asyncio.gather(first, waiting[4])
    assert [b.tokens.tolist()[0] for b in backend.batches if b.positions[0] == 0] == [1, 2]


async def test_disconnect_during_prompt_evaluation_keeps_the_cache(start: Start) -> None:
    backend = ToyBackend(n_slots=1, n_ctx=1000, n_batch=10, hold=True)
    engine = start(backend)
    task = asyncio.create_task(generate_answer(engine, tuple(range(200)), n_predict=1))
    backend.allow_forward(3)
    for _ in range(4):
        await backend.wait_for_forward()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    backend.allow_forward(100)
    got = await generate_answer(engine, tuple(range(45)), n_predict=1)
    assert got.finish.n_cached == 40
    assert len(backend.batches) == 5


async def test_disconnect_before_the_first_delta_evaluates_nothing(start: Start) -> None:
    backend = ToyBackend()
    engine = start(backend)
    await leave(ask(engine, 1))
    await generate_answer(engine, (2,), n_predict=1)
    assert len(backend.batches) == 1


async def test_disconnects_at_random_moments_do_not_break_the_engine(start: Start) -> None:
    backend = ToyBackend(n_slots=3, n_ctx=100, n_batch=8)
    engine = start(backend)
    random = np.random.default_rng(5)

    async def client(n_deltas: int, *prompt: int) -> None:
        stream = ask(engine, *prompt, n_predict=30)
        for _ in range(n_deltas):
            await anext(stream)
        await leave(stream)

    clients = [
        client(int(random.integers(0, 20)), *random.integers(0, 256, random.integers(1, 40)).tolist())
        for _ in range(100)
    ]
    await asyncio.gather(*clients)
    assert (await generate_answer(engine, (1, 2), n_predict=3)).finish.n_predicted


# --- samplers that fail


class FailingSampler:
    """A sampler that fails in the method named by the option ``where``."""

    options: ClassVar[JsonSchema] = {"where": {"type": "string", "default": "nowhere"}}
    truncates: ClassVar[bool] = False

    def __init__(self, where: str) -> None:
        self.where = where

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler:
        if options["where"] == "create":
            raise ZeroDivisionError("secret")
        return cls(options["where"])

    def apply(self, candidates: Candidates) -> None:
        if self.where == "apply":
            raise ZeroDivisionError("secret")
        if self.where == "refuse":
            raise RequestError("the grammar allows nothing more", param="grammar")
        if self.where == "empty":
            candidates.ids, candidates.logits = candidates.ids[:0], candidates.logits[:0]
        if self.where == "nan":
            candidates.logits[:] = np.nan
        if self.where == "ids":  # shared and read-only
            candidates.ids[:] = candidates.ids[::-1].copy()
        candidates.ids = candidates.ids[::-1]
        candidates.logits[:] = candidates.logits[::-1].copy()  # may be overwritten

    def accept(self, token: int) -> None:
        if self.where == "accept":
            raise ZeroDivisionError("secret")


@pytest.mark.inventory("H-09")
@pytest.mark.parametrize(
    ("where", "cause"),
    [
        ("create", "secret"),
        ("apply", "secret"),
        ("empty", "it left no candidate"),
        ("nan", "it left logits that are infinite or not a number"),
        ("accept", "secret"),
        ("ids", "read-only"),
    ],
)
async def test_failing_sampler_fails_only_its_request(
    start: Start, samplers: Mapping[str, Any], where: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(ToyBackend(), samplers={**samplers, "broken": FailingSampler})
    fields: dict[str, Any] = {"samplers": ("broken",), "seed": 7, "n_predict": 5}
    results = await asyncio.gather(
        generate_answer(engine, (1, 2), **fields | {"options": {"where": "nowhere"}}),
        generate_answer(engine, (1, 2), **fields | {"options": {"where": where}}),
        generate_answer(engine, (1, 2), **fields | {"options": {"where": "nowhere"}}),
        return_exceptions=True,
    )
    first, error, last = results
    assert isinstance(error, GenerationError)
    assert (error.status, error.message) == (500, "the sampler 'broken' failed")
    assert cause in str(error.__cause__)
    logged_by_engine = where != "create"  # the server logs failures on the event loop
    assert (cause in caplog.text) is ("'broken'" in caplog.text) is logged_by_engine
    assert not isinstance(first, BaseException)
    assert not isinstance(last, BaseException)
    assert first.ids == last.ids


async def test_sampler_request_errors_reach_the_client(start: Start, samplers: Mapping[str, Any]) -> None:
    engine = start(ToyBackend(), samplers={**samplers, "broken": FailingSampler})
    with pytest.raises(RequestError) as caught:
        await generate_answer(engine, (1,), samplers=("broken",), options={"where": "refuse"})
    assert (caught.value.status, caught.value.param) == (400, "grammar")


# --- models that fail


@pytest.mark.inventory("K-08", "E-067")
async def test_failing_forward_pass_fails_only_the_responsible_request(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    backend = ToyBackend(n_slots=4)
    backend.fail_on = lambda batch: 200 in batch.tokens
    engine = start(backend)
    prompts = [(1, 2, 3), (4, 200, 5), (6, 7), (8,)]
    results = await asyncio.gather(
        *(generate_answer(engine, prompt, n_predict=6, logit_bias={200: float("-inf")}) for prompt in prompts),
        return_exceptions=True,
    )
    error = results.pop(1)
    assert isinstance(error, GenerationError)
    assert "secret" not in error.message
    assert "out of luck in /secret/place" in caplog.text
    alone = start(ToyBackend(n_slots=1))
    for prompt, got in zip([(1, 2, 3), (6, 7), (8,)], results, strict=True):
        assert not isinstance(got, BaseException)
        assert got.ids == (await generate_answer(alone, prompt, n_predict=6, logit_bias={200: float("-inf")})).ids
    assert (await generate_answer(engine, (4, 5), n_predict=1)).finish.n_predicted == 1  # the slot is usable again


async def test_partially_failed_forward_pass_is_repeated(start: Start) -> None:
    """A backend may have added some tokens to its cache before it failed."""

    class HalfWay(ToyBackend):
        failed = False

        def forward(self, batch: Batch) -> Any:
            rows = super().forward(batch)
            if len(set(batch.slots.tolist())) > 1 and not self.failed:
                self.failed = True
                raise RuntimeError("after the fact")
            return rows

    backend = HalfWay(hold=True)
    engine = start(backend)
    tasks = [asyncio.create_task(generate_answer(engine, (i, 1), n_predict=4)) for i in range(3)]
    await backend.wait_for_forward()  # the others wait for the next forward pass
    backend.allow_forward(100)
    got = await asyncio.gather(*tasks)
    alone = start(ToyBackend())
    assert [a.ids for a in got] == [(await generate_answer(alone, (i, 1), n_predict=4)).ids for i in range(3)]
    assert backend.failed


async def test_lack_of_memory_ends_one_request_and_its_client_is_told(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class Small(ToyBackend):
        def forward(self, batch: Batch) -> Any:
            if len(batch.tokens) > 5:
                raise Unavailable("the GPU has not enough memory for 12 MiB")
            return super().forward(batch)

    engine = start(Small(n_slots=2))
    prompts = [(1, 2), (3, 4, 5, 6, 7, 8, 9)]  # without a common prefix, which the cache would hold
    short, long = await asyncio.gather(
        *(generate_answer(engine, prompt, n_predict=4) for prompt in prompts), return_exceptions=True
    )
    assert isinstance(long, Unavailable)
    assert (long.status, long.message) == (503, "the GPU has not enough memory for 12 MiB")
    assert not isinstance(short, BaseException)
    assert short.finish.n_predicted == 4
    assert "the GPU has not enough memory for 12 MiB" in caplog.text
    assert "Traceback" not in caplog.text


async def test_missing_output_rows_are_a_failure(start: Start) -> None:
    class Short(ToyBackend):
        def forward(self, batch: Batch) -> Any:
            return super().forward(batch)[:0]

    with pytest.raises(GenerationError):
        await generate_answer(start(Short()), (1,))


async def test_held_back_text_is_sent_before_the_error(start: Start) -> None:
    backend = ToyBackend(n_slots=1)
    backend.fail_on = lambda batch: int(batch.positions[0]) == 2
    engine = start(backend)
    stream = ask(engine, 1, n_predict=9, logit_bias={97: 100.0}, stop=("aaa",))
    text, error = await collect(stream)
    assert text == "aa"
    assert isinstance(error, GenerationError)
    assert (await generate_answer(engine, (1, 97), n_predict=1)).finish.n_cached == 0  # the slot's cache is not reused


async def test_engine_failure_ends_all_requests(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Fatal(ToyBackend):
        def forward(self, batch: Batch) -> Any:
            super().forward(batch)
            raise GeneratorExit  # not an Exception

    engine = start(Fatal(n_slots=1))
    results = await asyncio.gather(*(generate_answer(engine, (i,)) for i in range(5)), return_exceptions=True)
    assert {type(result) for result in results} == {GenerationError}
    with pytest.raises(GenerationError):
        await generate_answer(engine, (1,))
    assert engine.failed
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)


# --- the end


async def test_stop_lets_running_requests_finish(samplers: Mapping[str, Any]) -> None:
    backend = ToyBackend(n_slots=1, hold=True)
    engine = BatchingEngine(backend, ToyTokenizer(), samplers)
    tasks = [asyncio.create_task(generate_answer(engine, (i,), n_predict=3, ignore_eos=True)) for i in range(3)]
    await backend.wait_for_forward()
    stopping = asyncio.create_task(engine.stop(30))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        ask(engine, 1)
    backend.allow_forward(100)
    assert [a.finish.n_predicted for a in await asyncio.gather(*tasks)] == [3, 3, 3]
    await stopping
    assert backend.closed


async def test_stop_ends_requests_that_exceed_the_grace_period(samplers: Mapping[str, Any]) -> None:
    backend = ToyBackend(alphabet_logits, n_slots=2, n_ctx=10**6)
    engine = BatchingEngine(backend, ToyTokenizer(), samplers)
    streams = [ask(engine, i) for i in range(4)]
    got = [asyncio.create_task(collect(stream)) for stream in streams]
    for _ in range(3):
        await backend.wait_for_forward()
    await engine.stop(0)
    results = await asyncio.gather(*got)
    assert {type(error) for _, error in results} == {Unavailable}
    assert any(text for text, _ in results)
    assert backend.closed
    await engine.stop(0)  # stopping twice is harmless


async def collect(stream: AsyncIterator[Delta]) -> tuple[str, BaseException | None]:
    text = ""
    try:
        async for delta in stream:
            text += delta.text
    except RequestError as exc:
        return text, exc
    return text, None


async def test_requests_after_stop_are_refused(samplers: Mapping[str, Any]) -> None:
    engine = BatchingEngine(ToyBackend(), ToyTokenizer(), samplers)
    late = ask(engine, 1)  # accepted, but not started
    await engine.stop(1)
    with pytest.raises(Unavailable):
        await anext(late)


def test_closed_event_loops_are_ignored(samplers: Mapping[str, Any]) -> None:
    backend = ToyBackend(n_slots=2, hold=True)
    engine = BatchingEngine(backend, ToyTokenizer(), samplers)

    async def begin() -> AsyncIterator[Delta]:
        stream = ask(engine, 1, n_predict=5)
        step = asyncio.ensure_future(anext(stream))
        await backend.wait_for_forward()
        step.cancel()
        return stream

    asyncio.run(begin())
    backend.allow_forward(100)

    async def again() -> str:
        text = (await generate_answer(engine, (2,), n_predict=3)).finish.stop_type
        await engine.stop(5)
        return text

    assert asyncio.run(again()) in ("limit", "eos")
