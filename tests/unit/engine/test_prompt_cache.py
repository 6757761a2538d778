"""The prompt cache: saved states of slots are reused and never change a response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import GenerationError
from llamafw.engine import BatchingEngine
from llamafw.engine.prompt_cache import PromptCache
from llamafw.types import Bytes, Ints
from support.toy_model import ToyBackend, generate_answer, random_logits

Start = Callable[..., BatchingEngine]
A, B = tuple(range(100)), tuple(range(100, 200))


def ints(*tokens: int) -> Ints:
    return np.array(tokens, np.int32)


def state(n: int) -> Bytes:
    return np.zeros(n, np.uint8)


@pytest.mark.inventory("V-02", "K-03")
async def test_conversation_is_restored_from_the_prompt_cache(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, n_ctx=256, n_batch=256)
    engine = start(backend, prompt_cache=10_000)
    first = await generate_answer(engine, A, n_predict=2)
    assert (await generate_answer(engine, B, n_predict=2)).finish.n_cached == 0
    again = await generate_answer(engine, A, n_predict=2)
    assert (again.finish.n_cached, again.ids) == (99, first.ids)
    assert engine.stats().prompt_cache_bytes > 0
    assert (await generate_answer(engine, B, n_predict=2, cache_prompt=False)).finish.n_cached == 0


@pytest.mark.inventory("K-04")
async def test_prompt_cache_of_size_0_keeps_nothing(start: Start) -> None:
    engine = start(ToyBackend(random_logits, n_slots=1, n_ctx=256, n_batch=256), prompt_cache=0)
    for prompt in (A, B, A):
        assert (await generate_answer(engine, prompt, n_predict=1)).finish.n_cached == 0
    assert engine.stats().prompt_cache_bytes == 0


async def test_prefix_is_copied_from_another_slot(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=2, n_ctx=256, n_batch=256)
    engine = start(backend, prompt_cache=10_000)
    first = await generate_answer(engine, (*A, 1), n_predict=2, id_slot=0)
    other = await generate_answer(engine, (*A, 1), n_predict=2, id_slot=1)
    assert (other.finish.id_slot, other.finish.n_cached, other.ids) == (1, 100, first.ids)


@pytest.mark.parametrize(("prompt_cache", "n_evaluated"), [(10_000, 100 + 8 * 3), (0, 8 * 103)])
async def test_common_start_of_prompts_is_evaluated_once(start: Start, prompt_cache: int, n_evaluated: int) -> None:
    """It is copied to slots whose requests arrive meanwhile; without a prompt cache, nothing is copied."""
    prompts = [(*A, 100 + i) for i in range(8)]
    alone = start(ToyBackend(random_logits, n_slots=1, n_ctx=256, n_batch=256), prompt_cache=0)
    expected = [(await generate_answer(alone, prompt, n_predict=3)).ids for prompt in prompts]

    backend = ToyBackend(random_logits, n_slots=8, n_ctx=256, n_batch=32, hold=True)
    engine = start(backend, prompt_cache=prompt_cache)
    running = [asyncio.create_task(generate_answer(engine, prompt, n_predict=3)) for prompt in prompts]
    await backend.wait_for_forward()
    await asyncio.sleep(0)  # each task passes its request to the engine before it waits
    assert engine.stats().requests_processing + engine.stats().requests_deferred == len(prompts)
    backend.allow_forward(1000)
    answers = await asyncio.gather(*running)
    assert [answer.ids for answer in answers] == expected
    assert backend.n_evaluated == n_evaluated


async def test_prompts_do_not_wait_for_another_one_that_ends(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=2, n_ctx=256, n_batch=32, hold=True)
    engine = start(backend, prompt_cache=10_000)
    first = asyncio.create_task(generate_answer(engine, A, n_predict=1))
    await backend.wait_for_forward()
    second = asyncio.create_task(generate_answer(engine, (*A, 7), n_predict=1))
    backend.fail_on = lambda batch: len(backend.batches) == 1
    backend.allow_forward(1000)
    with pytest.raises(GenerationError):
        await first
    assert (await second).finish.n_cached < 100


class BackendThatCannotSave(ToyBackend):
    def save(self, slot: int, n: int) -> Bytes:
        raise OSError("no memory")


async def test_replaced_answers_are_not_kept(start: Start) -> None:
    """No prompt is likely to repeat them, so they must not take the place of conversations."""
    engine = start(ToyBackend(random_logits, n_slots=1, n_ctx=512, n_batch=512), prompt_cache=None)
    fields = {"n_predict": 100, "ignore_eos": True}
    for _ in range(2):  # the same prompt again
        answer = await generate_answer(engine, A, **fields)
    await generate_answer(engine, (*A, *answer.ids[70:], *B), **fields)  # the next turn, without the first tokens
    assert engine.stats().prompt_cache_bytes == 0
    await generate_answer(engine, B, **fields)  # another conversation
    assert engine.stats().prompt_cache_bytes == 4 * (100 + 30 + 100 + 99)


async def test_answer_is_kept_if_another_conversation_takes_its_slot(start: Start) -> None:
    engine = start(ToyBackend(random_logits, n_slots=1, n_ctx=512, n_batch=512), prompt_cache=None)
    first = await generate_answer(engine, (1, 2), n_predict=100, ignore_eos=True)
    await generate_answer(engine, (3, 4), n_predict=1)
    again = await generate_answer(engine, (1, 2, *first.ids, 5), n_predict=1)
    assert again.finish.n_cached == 101


async def test_failing_prompt_cache_does_not_change_responses(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    backend = BackendThatCannotSave(random_logits, n_slots=1, n_ctx=256, n_batch=256)
    engine = start(backend, prompt_cache=10_000)
    texts = [(await generate_answer(engine, prompt, n_predict=2)).ids for prompt in (A, B, A)]
    assert texts[0] == texts[2]
    assert "the prompt cache failed" in caplog.text


@pytest.mark.parametrize("limit", [0, 399])  # a state of 100 tokens has 400 bytes
async def test_states_that_do_not_fit_are_not_copied(
    start: Start, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    backend = BackendThatCannotSave(random_logits, n_slots=1, n_ctx=256, n_batch=256)
    engine = start(backend, prompt_cache=limit)
    for prompt in (A, B, A):
        await generate_answer(engine, prompt, n_predict=1)
    assert "the prompt cache failed" not in caplog.text


def test_least_recently_used_entry_is_removed_first() -> None:
    cache = PromptCache(25)
    for first in (1, 2):
        cache.add(ints(first, 9), state(10))
    assert cache.best(ints(1, 9, 3))[1] == 2  # counts as a use
    cache.add(ints(3, 9), state(10))
    assert [cache.best(ints(first, 9))[1] for first in (1, 2, 3)] == [2, 0, 2]
    assert cache.n_bytes == 20
    assert not cache.accepts(26)


def test_entry_replaces_its_prefixes() -> None:
    cache = PromptCache(None)
    cache.add(ints(1, 2), state(5))
    cache.add(ints(1, 2, 3), state(7))
    assert cache.n_bytes == 7
    assert cache.holds(ints(1, 2))
    assert not cache.holds(ints(1, 2, 3, 4))


def test_entry_that_cannot_be_cut_anywhere_is_reused_at_its_cuts_only() -> None:
    cache = PromptCache(None)
    cache.add(ints(1, 2, 3, 4, 5), state(5), (2, 4))
    lengths = {(1, 2, 3, 4, 5, 9): 5, (1, 2, 3, 4): 4, (1, 2, 3, 9): 2, (1, 9): 0}
    assert {prompt: cache.best(ints(*prompt))[1] for prompt in lengths} == lengths
    assert cache.holds(ints(1, 2, 3, 4))
    assert not cache.holds(ints(1, 2, 3))

    cache.add(ints(1, 2, 3), state(3), (2,))
    assert cache.n_bytes == 8  # neither can be made from the other
    cache.add(ints(1, 2, 3, 4, 5, 6), state(6), (3, 5))
    assert cache.n_bytes == 6


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(1, 9)), max_size=20))
def test_prompt_cache_never_exceeds_its_limit(entries: list[tuple[list[int], int]]) -> None:
    cache = PromptCache(20)
    for tokens, size in entries:
        cache.add(ints(*tokens), state(size))
        assert cache.n_bytes <= 20
        assert cache.best(ints(*tokens))[1] == len(tokens)
