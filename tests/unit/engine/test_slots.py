"""Assignment of slots, scheduling, and reuse of their caches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import GenerateRequest
from llamafw.engine import BatchingEngine
from llamafw.engine.prompt import PreparedPrompt
from llamafw.engine.scheduler import Scheduler, divide, divide_whole
from llamafw.engine.sequence import Sequence
from llamafw.engine.slots import Slot, Slots
from support.toy_model import N_VOCAB, ToyBackend, ToyTokenizer, generate_answer

Start = Callable[..., BatchingEngine]


def filled(n_ctx: int, *caches: list[int]) -> Slots:
    slots = Slots(len(caches), n_ctx)
    for slot, tokens in zip(slots.all, caches, strict=True):
        slot.extend(np.array(tokens, np.int32))
    return slots


@given(cache=st.lists(st.integers(0, 2), max_size=20), prompt=st.lists(st.integers(0, 2), max_size=20))
def test_common_prefix_matches_a_loop(cache: list[int], prompt: list[int]) -> None:
    slot = Slot(0, 20)
    slot.extend(np.array(cache, np.int32))
    n = 0
    while n < min(len(cache), len(prompt)) and cache[n] == prompt[n]:
        n += 1
    assert slot.common_prefix(np.array(prompt, np.int32)) == n


@pytest.mark.inventory("K-01", "C-121")
def test_longest_prefix_then_least_recently_used_slot_is_taken() -> None:
    slots = filled(10, [1, 2], [1, 2, 3], [7])

    def take(*prompt: int, id_slot: int = -1, cache_prompt: bool = True) -> tuple[int, int] | None:
        slot = slots.take(np.array(prompt, np.int32), id_slot, cache_prompt=cache_prompt)
        return None if slot is None else (slot.id, slot.n_reused(np.array(prompt, np.int32)))

    assert take(1, 2, 3, 4) == (1, 3)
    assert take(1, 2, 3, 4) == (0, 2)
    assert take(1, id_slot=1) is None
    assert slots.n_free() > 0
    assert take(1) == (2, 0)
    assert take(1) is None
    assert slots.n_free() == 0
    for slot in slots.all:
        slot.busy = False
    assert take(9) == (1, 0)  # used first, so least recently
    slots.all[1].busy = False
    assert take(9) == (0, 0)
    slots.all[0].busy = False
    assert take(7, id_slot=0) == (0, 0)
    assert take(1, 2, cache_prompt=False) == (2, 0)


@pytest.mark.inventory("K-01", "C-121")
def test_short_prefix_does_not_replace_a_long_cache() -> None:
    slots = filled(99, [1, 2, *range(10, 40)], [])
    slots.all[0].last_used = 1
    new = np.array([1, 2, 3], np.int32)
    assert slots.take(new, -1, cache_prompt=True) is slots.all[1]
    assert slots.take(new, -1, cache_prompt=True) is slots.all[0]  # only this slot is free; its prefix is reused
    assert slots.all[0].n_reused(new) == 2


@given(left=st.lists(st.integers(1, 100), min_size=1, max_size=8), n_free=st.integers(1, 200))
def test_divide_hands_out_all_tokens(left: list[int], n_free: int) -> None:
    shares = divide(left, n_free)
    assert all(0 <= share <= n for share, n in zip(shares, left, strict=True))
    assert sum(shares) == min(n_free, sum(left))
    assert shares[0] >= min(left[0], n_free // 2, 1)  # the oldest prompt always advances
    others = sorted(zip(left[1:], shares[1:], strict=True), key=lambda pair: pair[0])
    for (_, first), (shortest, second) in zip(others[1:], others[:-1], strict=True):
        assert not first or second == shortest  # shorter prompts are completed first


def test_divide_favours_short_prompts() -> None:
    assert divide([5000, 30, 800], 512) == [256, 30, 226]
    assert divide([100, 30], 512) == [100, 30]
    assert divide([5000], 512) == [512]


def test_whole_prompts_that_fit_are_evaluated_together() -> None:
    assert divide_whole([300, 30, 250, 100], 512) == [300, 30, 0, 100]
    assert divide_whole([600, 30], 512) == [600, 0]  # the oldest prompt does not wait for space
    assert divide_whole([5], 512) == [5]


def test_slot_that_can_be_cut_at_snapshots_reuses_less() -> None:
    slots = filled(20, list(range(10)))
    slot = slots.all[0]
    slot.cuts = (3, 6)
    prompts = {12: 10, 10: 10, 9: 6, 6: 6, 5: 3, 2: 0}
    assert {n: slot.n_reused(np.arange(n, dtype=np.int32)) for n in prompts} == prompts
    slot.shift(4, 2)  # from here on the cache is not reusable
    assert (slot.n_reused(np.arange(20, dtype=np.int32)), slot.n_savable) == (3, 3)


def test_waiting_tasks_keep_their_place_in_the_queue() -> None:
    slots = Slots(2, 10)
    slots.all[0].busy = True
    scheduler = Scheduler(slots, 8, 8)
    id_slots = {"x": 0, "y": 0, "z": -1, "w": -1}
    for name, id_slot in id_slots.items():
        request = GenerateRequest((1,), id_slot=id_slot)
        prompt = PreparedPrompt(np.array([1], np.int32))
        chain: Any = None  # nothing is drawn
        scheduler.add(Sequence(request, prompt, chain, None, ord(name), ToyTokenizer(), 10, lambda delta: None))

    def names(sequences: Iterable[Any]) -> list[str]:
        return [chr(sequence.seed) for sequence in sequences]

    admitted = scheduler.admit()
    assert names([next(admitted)[0]]) == ["z"]
    # Also during admission: if the engine fails at this moment, all tasks get the error.
    assert names(scheduler.waiting) == ["x", "y", "w"]
    assert not list(admitted)
    slots.all[0].busy = False
    assert names(sequence for sequence, _ in scheduler.admit()) == ["x"]


# --- through the engine


@pytest.mark.inventory("K-03", "E-042")
async def test_shared_prefix_is_reused(start: Start) -> None:
    backend = ToyBackend()
    engine = start(backend)
    first = await generate_answer(engine, (1, 2, 3, 4), n_predict=4)
    assert first.finish.n_cached == 0
    assert not backend.truncations  # nothing to remove
    follow_up = (1, 2, 3, 4, *first.ids[:3], 9, 9)
    second = await generate_answer(engine, follow_up, n_predict=2)
    assert (second.finish.n_cached, second.finish.timings.prompt_n, second.finish.id_slot) == (7, 2, 0)
    assert not backend.truncations
    branch = await generate_answer(engine, (1, 2, 5), n_predict=1)
    assert (branch.finish.n_cached, branch.finish.timings.prompt_n, branch.finish.id_slot) == (2, 1, 0)
    assert backend.truncations == [(0, 2)]


@pytest.mark.inventory("K-03")
async def test_last_token_of_a_cached_prompt_is_evaluated_again(start: Start) -> None:
    backend = ToyBackend()
    engine = start(backend)
    first, second = [await generate_answer(engine, (1, 2, 3), n_predict=5) for _ in range(2)]
    assert second.ids == first.ids
    assert (second.finish.n_cached, second.finish.timings.prompt_n) == (2, 1)
    assert backend.truncations == [(0, 2)]


@pytest.mark.inventory("K-04", "E-042")
async def test_cache_prompt_false_evaluates_everything(start: Start) -> None:
    engine = start(ToyBackend(n_slots=1))
    first = await generate_answer(engine, (1, 2, 3), n_predict=5)
    second = await generate_answer(engine, (1, 2, 3), n_predict=5, cache_prompt=False)
    assert second.ids == first.ids
    assert (second.finish.n_cached, second.finish.timings.prompt_n) == (0, 3)
    third = await generate_answer(engine, (1, 2, 3), n_predict=5)
    assert third.finish.n_cached == 2


@pytest.mark.inventory("K-10")
async def test_results_do_not_depend_on_the_cache(start: Start) -> None:
    engine = start(ToyBackend(n_slots=2, n_ctx=40, n_batch=5))
    random = np.random.default_rng(0)
    for _ in range(60):
        prompt = tuple(random.integers(0, 2, random.integers(1, 12)).tolist())
        cached = await generate_answer(engine, prompt, n_predict=6)
        fresh = await generate_answer(engine, prompt, n_predict=6, cache_prompt=False, id_slot=1)
        assert cached.ids == fresh.ids


@pytest.mark.inventory("E-041")
async def test_id_slot_chooses_the_slot(start: Start) -> None:
    engine = start(ToyBackend(n_slots=3))
    for id_slot in (2, 0, 1, 2):
        assert (await generate_answer(engine, (1, 2), n_predict=1, id_slot=id_slot)).finish.id_slot == id_slot


async def test_waiting_for_a_busy_slot_does_not_block_others(start: Start) -> None:
    backend = ToyBackend(n_slots=2, hold=True)
    engine = start(backend)

    async def ask(prompt: int, n_predict: int, id_slot: int) -> int:
        got = await generate_answer(engine, (prompt, 1), n_predict=n_predict, id_slot=id_slot, ignore_eos=True)
        return got.finish.id_slot

    long = asyncio.create_task(ask(7, 5, 0))
    await backend.wait_for_forward()
    waiting = asyncio.create_task(ask(8, 1, 0))
    quick = asyncio.create_task(ask(9, 1, -1))
    await asyncio.sleep(0)  # both reach the inbox
    backend.allow_forward(100)
    assert [await task for task in (long, waiting, quick)] == [0, 0, 1]
    began = {prompt: i for i, b in enumerate(backend.batches) for prompt in (7, 8, 9) if prompt in b.tokens}
    assert began == {7: 0, 9: 1, 8: 5}


async def test_requests_are_served_in_order_of_arrival(start: Start) -> None:
    backend = ToyBackend(n_slots=1, hold=True)
    engine = start(backend)
    done: list[int] = []

    async def ask(i: int) -> None:
        await generate_answer(engine, (i, 1), n_predict=1)
        done.append(i)

    tasks = [asyncio.create_task(ask(i)) for i in range(6)]
    backend.allow_forward(100)
    await asyncio.gather(*tasks)
    assert done == [0, 1, 2, 3, 4, 5]


@pytest.mark.inventory("K-13", "K-09", "C-018")
async def test_decoding_continues_during_a_long_prompt(start: Start) -> None:
    backend = ToyBackend(n_slots=2, n_ctx=200, n_batch=64, hold=True)
    engine = start(backend, n_batch=64, n_ubatch=16)
    talker = asyncio.create_task(generate_answer(engine, (1,), n_predict=12, ignore_eos=True))
    await backend.wait_for_forward()
    reader = asyncio.create_task(generate_answer(engine, tuple(range(100)), n_predict=1))
    await asyncio.sleep(0)
    backend.allow_forward(100)
    await asyncio.gather(talker, reader)
    sizes = [(len(b.tokens), int((b.slots == 0).sum())) for b in backend.batches]
    assert sizes[0] == (1, 1)
    assert sizes[1:8] == [(16, 1)] * 6 + [(11, 1)]  # 15 prompt tokens and one generated token per step
    assert sizes[8:] == [(1, 1)] * 4


@pytest.mark.inventory("K-13", "C-018")
@pytest.mark.parametrize("n", [1, 31, 32, 33, 63])
async def test_prompts_are_divided_into_batches(start: Start, n: int) -> None:
    backend = ToyBackend()
    got = await generate_answer(start(backend), tuple(i % N_VOCAB for i in range(n)), n_predict=1)
    assert got.finish.n_prompt == n
    assert [len(b.tokens) for b in backend.batches] == [32] * (n // 32) + [n % 32] * (n % 32 > 0)
