"""How many requests may wait, by priority."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from llamafw import EmbedRequest, PriorityStats, Sender, TooManyRequests
from llamafw.engine import BatchingEngine
from llamafw.engine.queue_limits import QueueLimits
from support.toy_model import ToyBackend, generate_answer, random_logits

Start = Callable[..., BatchingEngine]


def test_limit_of_a_priority_holds_for_greater_numbers_too() -> None:
    limits = QueueLimits(1, 10, {1: 2, 5: 1})
    for priority in (0, 5):
        assert limits.full_for(priority) is None
        limits.add(priority)
    assert [limits.full_for(priority) for priority in (0, 1, 4, 5, 9)] == [None, None, None, 5, 5]
    limits.add(3)
    assert [limits.full_for(priority) for priority in (-1, 0, 1, 3)] == [None, None, 1, 1]
    limits.remove(5)
    assert limits.full_for(1) is None
    assert (limits.n_waiting(-20), limits.n_waiting(1), limits.n_waiting(5)) == (1, 1, 0)
    assert "1 request of the priority 1 or a greater number is waiting" in limits.describe(1)
    assert "0 requests of the priority 5 or a greater number are waiting" in limits.describe(5)


def test_requests_may_always_have_free_slots() -> None:
    limits = QueueLimits(2, 0, {1: 0})
    assert limits.full_for(5) is None
    limits.add(5)
    assert (limits.full_for(5), limits.full_for(0)) == (None, None)
    limits.add(5)
    assert (limits.full_for(5), limits.full_for(0)) == (-20, -20)


async def test_full_queue_of_a_priority_is_429_with_retry_after(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, hold=True)
    engine = start(backend, max_queue=9, max_queue_by_priority={1: 1})
    low = Sender(priority=3)
    tasks = [asyncio.create_task(generate_answer(engine, (i,), n_predict=2, sender=low)) for i in range(2)]
    await backend.wait_for_forward()
    with pytest.raises(TooManyRequests, match="priority 1 or a greater number") as caught:
        await generate_answer(engine, (9,), n_predict=2, sender=low)
    assert 1 <= caught.value.retry_after <= 60
    with pytest.raises(TooManyRequests):
        await engine.embed(EmbedRequest((9,), sender=low))

    tasks.append(asyncio.create_task(generate_answer(engine, (9,), n_predict=2)))  # others may wait
    await asyncio.sleep(0)
    stats = engine.stats()
    assert (stats.requests_rejected, stats.requests_deferred) == (2, 2)
    assert stats.by_priority == {0: PriorityStats(waiting=1), 3: PriorityStats(waiting=1, rejected=2)}
    backend.allow_forward(100)
    await asyncio.gather(*tasks)
    assert engine.stats().by_priority == {0: PriorityStats(), 3: PriorityStats(rejected=2, preemptions=1)}
