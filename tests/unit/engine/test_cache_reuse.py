"""Parts of a prompt that a slot holds at later positions are moved, if a request allows it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import NotSupported
from llamafw.engine import BatchingEngine
from llamafw.engine.slots import find_chunks
from support.toy_model import ToyBackend, generate_answer, random_logits
from support.toy_snapshots import RecurrentToyBackend, WindowedToyBackend

Start = Callable[..., BatchingEngine]
SYSTEM, OLD, NEW, END = tuple(range(20)), tuple(range(20, 50)), tuple(range(50, 80)), tuple(range(80, 90))


def reference_chunks(cached: list[int], prompt: list[int], min_tokens: int) -> list[tuple[int, int]]:
    """Return what a search token by token finds, as in llama-server."""
    found, at, done, end = [], 0, 0, 0
    while at < len(cached) and done < len(prompt):
        n = 0
        while at + n < len(cached) and done + n < len(prompt) and cached[at + n] == prompt[done + n]:
            n += 1
        if n >= min_tokens:
            found.append((at - end, n))
            at, done, end = at + n, done + n, at + n
        else:
            at += 1
    return found


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30), st.integers(1, 5))
def test_chunks_are_those_of_a_search_token_by_token(cached: list[int], prompt: list[int], min_tokens: int) -> None:
    found = list(find_chunks(np.array(cached, np.int32), np.array(prompt, np.int32), min_tokens))
    assert found == reference_chunks(cached, prompt, min_tokens)


def test_tokens_are_not_found_between_two_others() -> None:
    """The bytes of 1 << 8 are those of 1, moved by one."""
    cached, prompt = np.array([1 << 8, 1 << 8, 7], np.int32), np.array([1], np.int32)
    assert list(find_chunks(cached, prompt, 1)) == []


@pytest.mark.inventory("Q-09")
async def test_parts_after_a_removed_one_are_reused(start: Start) -> None:
    backend = ToyBackend(random_logits, n_slots=1, n_ctx=128, n_batch=128)
    engine = start(backend)
    await generate_answer(engine, (*SYSTEM, *OLD, *NEW), n_predict=1)
    again = await generate_answer(engine, (*SYSTEM, *NEW, *END), n_predict=4, n_cache_reuse=30)
    assert again.finish.n_cached == len(SYSTEM) + len(NEW)
    assert backend.shifts == [(0, len(SYSTEM), len(OLD))]
    fresh = await generate_answer(engine, (*SYSTEM, *NEW, *END), n_predict=4, cache_prompt=False)
    assert again.ids == fresh.ids


@pytest.mark.parametrize("n_cache_reuse", [0, 31])
async def test_shorter_parts_are_evaluated(start: Start, n_cache_reuse: int) -> None:
    backend = ToyBackend(random_logits, n_slots=1, n_ctx=128, n_batch=128)
    engine = start(backend)
    await generate_answer(engine, (*SYSTEM, *OLD, *NEW), n_predict=1)
    again = await generate_answer(engine, (*SYSTEM, *NEW, *END), n_predict=1, n_cache_reuse=n_cache_reuse)
    assert (again.finish.n_cached, backend.shifts) == (len(SYSTEM), [])


async def test_moved_parts_are_reused_only_by_requests_that_allow_it(start: Start) -> None:
    engine = start(ToyBackend(random_logits, n_slots=1, n_ctx=128, n_batch=128))
    await generate_answer(engine, (*SYSTEM, *OLD, *NEW), n_predict=1)
    prompt = (*SYSTEM, *NEW, *END)
    await generate_answer(engine, prompt, n_predict=1, n_cache_reuse=10)
    allowed = await generate_answer(engine, (*prompt, 1), n_predict=1, n_cache_reuse=10)
    assert allowed.finish.n_cached == len(prompt)
    exact = await generate_answer(engine, (*prompt, 1), n_predict=1)
    assert exact.finish.n_cached == len(SYSTEM)


async def test_several_parts_are_moved(start: Start) -> None:
    engine = start(ToyBackend(random_logits, n_slots=1, n_ctx=256, n_batch=256))
    parts = [tuple(range(20 * i, 20 * i + 20)) for i in range(6)]
    await generate_answer(engine, sum(parts, ()), n_predict=1)
    kept = (*parts[0], *parts[2], *parts[4], *parts[5], 1)
    again = await generate_answer(engine, kept, n_predict=3, n_cache_reuse=20)
    assert again.finish.n_cached == len(kept) - 1
    assert again.ids == (await generate_answer(engine, kept, n_predict=3, cache_prompt=False)).ids


async def test_slot_with_the_parts_is_chosen(start: Start) -> None:
    engine = start(ToyBackend(random_logits, n_slots=2, n_ctx=128, n_batch=128), prompt_cache=0)
    first = await generate_answer(engine, (*OLD, *NEW), n_predict=1)
    again = await generate_answer(engine, (*NEW, *END), n_predict=1, n_cache_reuse=10)
    assert (again.finish.id_slot, again.finish.n_cached) == (first.finish.id_slot, len(NEW))


@pytest.mark.parametrize("kind", [RecurrentToyBackend, WindowedToyBackend])
async def test_models_that_cannot_move_their_cache_refuse_it(start: Start, kind: type[ToyBackend]) -> None:
    engine = start(kind(random_logits))
    with pytest.raises(NotSupported, match="cannot be moved") as caught:
        await generate_answer(engine, SYSTEM, n_cache_reuse=1)
    assert caught.value.param == "n_cache_reuse"
