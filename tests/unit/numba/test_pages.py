"""Pages of caches: contents are as if nothing was shared after any sequence of operations, and nothing leaks."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llamafw import Bytes, LlamafwError
from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kv_cache import KVCache
from llamafw_backends.numba_cpu.pages import PAGE, Pages, ring_table

N_SLOTS, N_CTX = 4, 5 * PAGE
LAYOUTS = CacheLayout(2, 16, 32), CacheLayout(1, 32, 16, latent=True)
SLOTS, LENGTHS = st.integers(0, N_SLOTS - 1), st.integers(0, N_CTX)


class Caches(RuleBasedStateMachine):
    """Two caches with shared pages, and a model of them: the numbers that each slot should hold, one per position."""

    def __init__(self) -> None:
        super().__init__()
        no_compiler = cast("KernelCompiler", None)  # kernels are only needed to round and to rotate
        self.kv = KVCache(LAYOUTS, N_SLOTS, N_CTX, ("f32", "f32"), no_compiler)
        self.kv.prepare_shift([None, None])
        self.slots: list[list[int]] = [[] for _ in range(N_SLOTS)]
        self.saved: list[tuple[list[int], Bytes]] = []
        self.n_written = 0

    @rule(slot=SLOTS, n=st.integers(1, 2 * PAGE))
    def append(self, slot: int, n: int) -> None:
        held = self.slots[slot]
        n = min(n, N_CTX - len(held))
        self.kv.reserve(slot, len(held), len(held) + n)
        self.write(slot, len(held), n)

    def write(self, slot: int, first: int, n: int) -> None:
        """Write new numbers like kernels, which refuse to write positions that are not writable."""
        low, high = self.kv.pages.writable[slot]
        assert n == 0 or low <= first <= first + n <= high
        numbers = range(self.n_written, self.n_written + n)
        self.n_written += n
        for position, number in enumerate(numbers, first):
            for cache in self.kv.caches:
                owner, block, lane = place(cache, slot, position)
                cache.words[owner, :, block, :, lane] = number
                cache.rows[owner, :, 16 * block + lane].view(np.uint32)[...] = number
        self.slots[slot][first:] = numbers

    @rule(slot=SLOTS, n=LENGTHS)
    def truncate(self, slot: int, n: int) -> None:
        self.kv.truncate(slot, n)
        del self.slots[slot][n:]

    @rule(slot=SLOTS, n=LENGTHS, count=st.integers(1, PAGE))
    def overwrite(self, slot: int, n: int, count: int) -> None:
        """A batch may continue a slot before its end."""
        first = min(n, len(self.slots[slot]))
        count = min(count, N_CTX - first)
        self.kv.reserve(slot, first, first + count)
        self.write(slot, first, count)

    @rule(source=SLOTS, other=SLOTS, n=LENGTHS)
    def share(self, source: int, other: int, n: int) -> None:
        if source != other:
            n = min(n, len(self.slots[source]))
            self.kv.share(source, other, n)
            self.slots[other] = self.slots[source][:n]

    @rule(slot=SLOTS, first=LENGTHS, n=LENGTHS)
    def shift(self, slot: int, first: int, n: int) -> None:
        first = min(first, len(self.slots[slot]))
        n = min(n, len(self.slots[slot]) - first)
        self.kv.shift(slot, first, n, len(self.slots[slot]))
        del self.slots[slot][first : first + n]

    @rule(slot=SLOTS, n=LENGTHS)
    def save(self, slot: int, n: int) -> None:
        n = min(n, len(self.slots[slot]))
        self.saved.append((self.slots[slot][:n], self.kv.save(slot, n)))

    @precondition(lambda self: self.saved)
    @rule(slot=SLOTS, data=st.data())
    def restore(self, slot: int, data: st.DataObject) -> None:
        numbers, state = data.draw(st.sampled_from(self.saved))
        self.kv.restore(slot, len(numbers), state)
        self.slots[slot] = list(numbers)

    @invariant()
    def slots_hold_their_numbers(self) -> None:
        for slot, held in enumerate(self.slots):
            for cache in self.kv.caches:
                for position in {*range(0, len(held), 13), len(held) - 1} if held else ():
                    owner, block, lane = place(cache, slot, position)
                    assert (cache.words[owner, :, block, :, lane] == held[position]).all()
                    assert (cache.rows[owner, :, 16 * block + lane].view(np.uint32) == held[position]).all()

    @invariant()
    def pages_are_counted(self) -> None:
        pages = self.kv.pages
        assert isinstance(pages, Pages)
        held = [pages.numbers(slot) for slot in range(N_SLOTS)]
        assert all(len(numbers) >= -(-len(slot) // PAGE) for numbers, slot in zip(held, self.slots, strict=True))
        every = [number for numbers in held for number in numbers]
        counts = {number: every.count(number) for number in every}
        assert pages.n_used == len(counts)
        assert pages.n_shared == sum(count > 1 for count in counts.values())
        assert pages.n_used <= pages.n_touched <= pages.n_total
        for slot, numbers in enumerate(held):
            low, high = pages.writable[slot]
            assert high == PAGE * len(numbers)
            assert all(counts[number] == 1 for number in numbers[low // PAGE :])

    def teardown(self) -> None:
        for slot in range(N_SLOTS):
            self.kv.truncate(slot, 0)
        assert self.kv.pages.n_used == 0


def place(cache: Any, slot: int, position: int) -> tuple[int, int, int]:
    """Return the slot whose memory a position is in, and its block and lane there."""
    owner, page = divmod(int(cache.table[slot, position // PAGE]), N_CTX // PAGE)
    return owner, (page * PAGE + position % PAGE) // 16, position % 16


Caches.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCaches = Caches.TestCase


@pytest.fixture
def pages() -> Pages:
    return Pages(3, 10 * PAGE)


def test_slots_that_share_nothing_have_adjacent_pages(pages: Pages) -> None:
    for slot in (2, 0, 1):
        for first in range(0, 10 * PAGE, 100):
            assert pages.reserve(slot, first, min(first + 100, 10 * PAGE), first) == []
    assert [pages.numbers(slot) for slot in range(3)] == [list(range(10)), list(range(10, 20)), list(range(20, 30))]


def test_shared_pages_are_copied_before_they_are_written(pages: Pages) -> None:
    pages.reserve(0, 0, 200, 0)
    pages.share(0, 1, 3)
    assert (pages.n_used, pages.n_shared) == (4, 3)
    assert pages.reserve(1, 2 * PAGE + 5, 3 * PAGE, 2 * PAGE + 5) == [(2, 12)]
    assert (pages.numbers(0), pages.numbers(1)) == ([0, 1, 2, 3], [0, 1, 12])
    assert pages.reserve(1, PAGE, 2 * PAGE, PAGE) == []  # nothing of it must be kept
    assert (pages.n_used, pages.n_shared) == (5, 1)
    assert pages.writable.tolist()[1] == [PAGE, 2 * PAGE]


def test_owner_of_shared_pages_may_leave_first(pages: Pages) -> None:
    pages.reserve(0, 0, 3 * PAGE, 0)
    pages.share(0, 1, 3)
    pages.truncate(0, 0)
    assert (pages.n_used, pages.n_shared) == (3, 0)
    pages.reserve(0, 0, 3 * PAGE, 0)
    assert pages.numbers(1) == [0, 1, 2]
    assert not set(pages.numbers(0)) & set(pages.numbers(1))


def test_memory_that_was_used_is_used_again_first(pages: Pages) -> None:
    pages.reserve(2, 0, 4 * PAGE, 0)
    pages.truncate(2, 0)
    pages.reserve(0, 0, 6 * PAGE, 0)
    assert pages.numbers(0) == [20, 21, 22, 23, 24, 25]
    assert pages.n_touched == 6


def test_all_slots_can_be_full_after_any_sharing(pages: Pages) -> None:
    pages.reserve(0, 0, 10 * PAGE, 0)
    for slot in (1, 2):
        pages.share(0, slot, 10)
    for slot in (2, 1, 0):
        pages.reserve(slot, 0, 10 * PAGE, 10 * PAGE)
    assert (pages.n_used, pages.n_shared, pages.n_total) == (30, 0, 30)


def test_positions_of_rings_are_used_in_turn() -> None:
    assert ring_table(2, 3 * PAGE, 5 * PAGE).tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]]


def test_restoring_a_state_that_does_not_fit_frees_nothing() -> None:
    kv = KVCache(LAYOUTS, 2, N_CTX, ("f32", "f32"), cast("KernelCompiler", None))
    kv.reserve(0, 0, 100)
    with pytest.raises(LlamafwError, match="the state has"):
        kv.restore(0, 50, np.zeros(3, np.uint8))
    assert kv.pages.n_used == 2
