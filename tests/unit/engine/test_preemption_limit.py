"""What interrupted requests keep in memory has a limit; without space for it, a request is not interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw import Batch, Floats, Sender
from llamafw.engine import BatchingEngine
from llamafw.engine.pausing import n_bytes_kept
from support.toy_model import Answer, ToyBackend, generate_answer, random_logits

Start = Callable[..., BatchingEngine]
PROMPT = tuple(range(100, 180))
URGENT = tuple(range(10, 40))
LOW = Sender(priority=5)
TWO: dict[str, Any] = {"n_ctx": 256, "n_slots": 2}


class Inexact(ToyBackend):
    """A backend whose caches cannot be made again by evaluating their tokens."""

    exact = False


async def run_all(
    engine: BatchingEngine, backend: ToyBackend, n_urgent: int, between: Callable[[], None] = lambda: None
) -> list[Answer]:
    """Run two requests that fill both slots, then some more urgent ones; return the answers of the first two."""
    request: dict[str, Any] = {"n_predict": 20, "ignore_eos": True, "seed": 1, "sender": LOW}
    low = []
    for i in range(2):
        low.append(asyncio.create_task(generate_answer(engine, (i, *PROMPT), **request)))
        await asyncio.sleep(0)
    await backend.wait_for_forward()
    for _ in range(12):  # their prompts take seven steps
        backend.allow_forward()
        await backend.wait_for_forward()
    between()
    urgent = [asyncio.create_task(generate_answer(engine, (i, *URGENT), n_predict=2)) for i in range(n_urgent)]
    await asyncio.sleep(0)
    backend.allow_forward(10_000)
    await asyncio.gather(*urgent)
    return list(await asyncio.gather(*low))


@pytest.mark.parametrize(
    ("limit", "n_interrupted"), [(None, 2), (2**20, 2), (900, 2), (500, 1), (300, 0), (0, 0)], ids=str
)
async def test_states_that_requests_keep_have_a_limit(start: Start, limit: int | None, n_interrupted: int) -> None:
    """Without space for a state, requests wait.

    A state has 4 bytes per token: about 90 tokens of each request are cached.
    """
    backend, largest = Inexact(random_logits, hold=True, **TWO), 0
    engine = start(backend, prompt_cache=limit)
    forward = backend.forward

    def observe(batch: Batch) -> Floats:
        nonlocal largest
        largest = max(largest, n_bytes_kept(engine._scheduler.waiting) + engine._cache.n_bytes)
        return forward(batch)

    backend.forward = observe  # type: ignore[method-assign]  # looks between two steps
    answers = await run_all(engine, backend, 2)
    stats = engine.stats()
    assert stats.by_priority[5].preemptions == n_interrupted
    assert (largest > 0) == (n_interrupted > 0)
    if limit is not None:
        assert largest <= limit
    plain = start(ToyBackend(random_logits, **TWO))
    for i, answer in enumerate(answers):
        expected = await generate_answer(plain, (i, *PROMPT), n_predict=20, ignore_eos=True, seed=1)
        assert (answer.text, answer.ids) == (expected.text, expected.ids)
    assert n_bytes_kept(engine._scheduler.waiting) == 0


async def test_request_with_a_smaller_state_is_interrupted_instead(start: Start) -> None:
    backend = Inexact(random_logits, hold=True, **TWO)
    engine = start(backend, prompt_cache=300)
    request: dict[str, Any] = {"n_predict": 20, "ignore_eos": True, "seed": 1}
    low = []
    for priority, prompt in ((5, URGENT), (7, PROMPT)):  # the second one is less urgent, and too large
        low.append(asyncio.create_task(generate_answer(engine, prompt, sender=Sender(priority), **request)))
        await asyncio.sleep(0)
    await backend.wait_for_forward()
    for _ in range(6):
        backend.allow_forward()
        await backend.wait_for_forward()
    urgent = asyncio.create_task(generate_answer(engine, (1,), n_predict=2))
    await asyncio.sleep(0)
    backend.allow_forward(10_000)
    await asyncio.gather(urgent, *low)
    stats = engine.stats().by_priority
    assert (stats[5].preemptions, stats[7].preemptions) == (1, 0)


async def test_saved_prompts_make_room_for_states_that_requests_keep(start: Start) -> None:
    backend = Inexact(random_logits, hold=True, **TWO)
    engine = start(backend, prompt_cache=900)
    cache = engine._cache

    def fill() -> None:
        for i in range(2):
            cache.add(np.full(100, 900 + i, np.int32), np.zeros(440, np.uint8))

    await run_all(engine, backend, 2, between=fill)
    assert engine.stats().by_priority[5].preemptions == 2


async def test_requests_are_not_interrupted_if_memory_is_scarce(start: Start) -> None:
    free = 2**30
    backend = Inexact(random_logits, hold=True, **TWO)
    engine = start(backend, prompt_cache=None, free_memory=lambda: free)

    def use_memory() -> None:
        nonlocal free
        free = 2**28

    await run_all(engine, backend, 2, between=use_memory)
    assert engine.stats().by_priority[5].preemptions == 0
