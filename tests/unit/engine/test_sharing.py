"""Slots share the start of prompts if the backend can, so it is evaluated once and held once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw import LlamafwError
from llamafw.engine import BatchingEngine
from support.toy_model import ToyBackend, generate_answer, random_logits
from support.toy_sharing import PAGE, SharingToyBackend

Start = Callable[..., BatchingEngine]

PREFIX = tuple(int(token) for token in np.random.default_rng(3).integers(0, 100, 500))
CHATS = [(*PREFIX, 100 + i, 5, i) for i in range(16)]
SIZES: dict[str, Any] = {"n_slots": 16, "n_ctx": 1024, "n_batch": 64}


async def expected_ids(start: Start, n_predict: int) -> list[tuple[int, ...]]:
    """Return the answers of an engine with one slot."""
    alone = start(ToyBackend(random_logits, **{**SIZES, "n_slots": 1}), n_batch=64)
    return [tuple((await generate_answer(alone, chat, n_predict=n_predict)).ids) for chat in CHATS]


@pytest.mark.parametrize("prompt_cache", [0, None])
async def test_sixteen_chats_evaluate_and_hold_their_common_start_once(start: Start, prompt_cache: int | None) -> None:
    expected = await expected_ids(start, 3)
    backend = SharingToyBackend(random_logits, hold=True, **SIZES)
    engine = start(backend, n_batch=64, prompt_cache=prompt_cache)
    running = [asyncio.create_task(generate_answer(engine, chat, n_predict=3)) for chat in CHATS]
    await backend.wait_for_forward()
    await asyncio.sleep(0)  # each task passes its request to the engine before it waits
    backend.allow_forward(1000)
    answers = await asyncio.gather(*running)

    assert [tuple(answer.ids) for answer in answers] == expected
    assert sorted(answer.finish.n_cached for answer in answers) == [0, *[500] * 15]
    assert backend.n_evaluated == 500 + 16 * (3 + 2)
    pages = engine.stats().cache_pages
    assert pages is not None
    assert pages.n_shared == 500 // PAGE
    assert pages.n_used == 500 // PAGE + 16


async def test_prefix_of_a_busy_slot_is_shared(start: Start) -> None:
    backend = SharingToyBackend(random_logits, hold=True, **SIZES)
    engine = start(backend, n_batch=64, prompt_cache=0)
    first = asyncio.create_task(generate_answer(engine, CHATS[0], n_predict=50, ignore_eos=True))
    backend.allow_forward(8 + 10)
    for _ in range(8 + 10 + 1):  # the prompt, ten tokens, and one that waits
        await backend.wait_for_forward()
    second = asyncio.create_task(generate_answer(engine, CHATS[1], n_predict=3))
    await asyncio.sleep(0)
    backend.allow_forward(1000)
    answer = await second
    assert backend.shares == [(0, answer.finish.id_slot, 500)]
    assert answer.finish.n_cached == 500
    assert [tuple(one.ids)[:3] for one in (await first, answer)] == (await expected_ids(start, 3))[:2]


async def test_shorter_prefixes_than_that_of_the_own_slot_are_not_shared(start: Start) -> None:
    backend = SharingToyBackend(random_logits, **SIZES)
    engine = start(backend, n_batch=64)
    await generate_answer(engine, CHATS[0], n_predict=1, id_slot=0)
    await generate_answer(engine, PREFIX[:300], n_predict=1, id_slot=1)
    assert backend.shares == [(0, 1, 299)]
    again = await generate_answer(engine, CHATS[0], n_predict=1, id_slot=0)
    assert (again.finish.n_cached, len(backend.shares)) == (502, 1)


async def test_few_tokens_are_not_shared(start: Start) -> None:
    backend = SharingToyBackend(random_logits, **SIZES)
    engine = start(backend, n_batch=64)
    await generate_answer(engine, PREFIX[:60], n_predict=1, id_slot=0)
    await generate_answer(engine, (*PREFIX[:15], 101, 102), n_predict=1, id_slot=1)
    assert backend.shares == []
    await generate_answer(engine, (*PREFIX[:16], 101, 102), n_predict=1, id_slot=2)
    assert backend.shares == [(0, 2, 16)]


async def test_requests_without_cache_prompt_share_nothing(start: Start) -> None:
    backend = SharingToyBackend(random_logits, **SIZES)
    engine = start(backend, n_batch=64)
    await generate_answer(engine, CHATS[0], n_predict=1, id_slot=0)
    answer = await generate_answer(engine, CHATS[1], n_predict=1, id_slot=1, cache_prompt=False)
    assert (answer.finish.n_cached, backend.shares) == (0, [])


async def test_longer_saved_state_is_restored_instead(start: Start) -> None:
    backend = SharingToyBackend(random_logits, n_slots=2, n_ctx=1024, n_batch=64)
    engine = start(backend, n_batch=64, prompt_cache=None)
    long, other = (*PREFIX, *range(100, 200)), tuple(range(50, 150))
    await generate_answer(engine, long, n_predict=1, id_slot=0)
    await generate_answer(engine, other, n_predict=1, id_slot=0)  # the long one is saved
    await generate_answer(engine, PREFIX[:300], n_predict=1, id_slot=0)
    again = await generate_answer(engine, long, n_predict=1, id_slot=1)
    assert again.finish.n_cached == 599
    assert backend.shares == []


class BackendThatCannotShare(SharingToyBackend):
    def share_prefix(self, source: int, target: int, n: int) -> None:
        raise LlamafwError("no")


async def test_failing_backend_does_not_change_responses(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    expected = await expected_ids(start, 3)
    backend = BackendThatCannotShare(random_logits, **SIZES)
    engine = start(backend, n_batch=64)
    for slot, chat in enumerate(CHATS[:3]):
        answer = await generate_answer(engine, chat, n_predict=3, id_slot=slot)
        assert (tuple(answer.ids), answer.finish.n_cached) == (expected[slot], 0)
    assert "the prompt cache failed on slot 1" in caplog.text
