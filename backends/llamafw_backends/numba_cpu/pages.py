"""Tables of the memory that holds the positions of slots, which share that of a common start.

A page is the memory of 64 positions, in every cache that keeps all positions. Page i of a slot holds the positions from
64 · i on, and a slot's table has its number. A page that several slots have is never written: a slot that writes to
one of its positions gets a page of its own first.

There are as many pages as all slots together need without sharing, n for each slot. Page i of any slot is one of the
pages i, i + n, i + 2n … As each slot has at most one of them, there is always a free one, and slots that share nothing
keep their positions in the order of addresses.

Independent of the memory itself: this module only counts pages.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PAGE = 64
"""Positions in a page: a multiple of the 16 positions of a block, as many as a kernel scores at once."""

Numbers = npt.NDArray[np.int32]


class Pages:
    """The pages of all slots.

    Parameters
    ----------
    n_slots, n_positions : int
        Number of slots, and of positions in each, a multiple of `PAGE`.
    """

    def __init__(self, n_slots: int, n_positions: int) -> None:
        self._n = n_positions // PAGE  # pages of a slot
        self.table: Numbers = np.zeros((n_slots, self._n), np.int32)  # kernels read it
        self.writable: npt.NDArray[np.int64] = np.zeros((n_slots, 2), np.int64)
        """The first position that a slot may write, and the end; kernels read it. Earlier ones may be writable, too."""
        self._counts = [0] * (n_slots * self._n)  # how many slots have a page
        self._touched = [False] * (n_slots * self._n)  # the operating system has provided memory
        self._lengths = [0] * n_slots  # pages that each slot has

    def numbers(self, slot: int) -> list[int]:
        """Return the pages of a slot."""
        return [int(number) for number in self.table[slot, : self._lengths[slot]]]

    @property
    def n_used(self) -> int:
        """Number of pages that slots have; a shared page counts once."""
        return sum(count > 0 for count in self._counts)

    @property
    def n_shared(self) -> int:
        """Number of pages that more than one slot has."""
        return sum(count > 1 for count in self._counts)

    @property
    def n_touched(self) -> int:
        """Number of pages that were ever used: those that take memory."""
        return sum(self._touched)

    @property
    def n_total(self) -> int:
        """Number of pages."""
        return len(self._counts)

    def truncate(self, slot: int, n: int) -> None:
        """Free the pages of a slot that hold no position before ``n``."""
        n_left = -(-n // PAGE)
        for number in self.numbers(slot)[n_left:]:
            self._counts[number] -= 1
        self._lengths[slot] = min(self._lengths[slot], n_left)
        self._set_writable(slot)

    def share(self, source: int, target: int, n: int) -> None:
        """Give an empty slot the first ``n`` pages of another one."""
        numbers = self.numbers(source)[:n]
        for number in numbers:
            self._counts[number] += 1
        self.table[target, :n], self._lengths[target] = numbers, n
        self._set_writable(source)
        self._set_writable(target)

    def reserve(self, slot: int, first: int, end: int, n_kept: int) -> list[tuple[int, int]]:
        """Give a slot pages for positions ``first`` … ``end - 1`` that no other slot has, and free later ones.

        Parameters
        ----------
        slot : int
            The slot; it has all positions before ``first``.
        first, end : int
            The positions that will be written.
        n_kept : int
            Positions whose contents must stay.

        Returns
        -------
        list of (int, int)
            Pages to be copied: from the first number to the second.
        """
        self.truncate(slot, max(end, n_kept))
        copies = []
        for i in range(first // PAGE, -(-end // PAGE)):
            old = int(self.table[slot, i]) if i < self._lengths[slot] else None
            if old is not None and self._counts[old] == 1:
                continue
            new = self._free_page(slot, i)
            self._counts[new], self._touched[new] = 1, True
            self.table[slot, i] = new
            if old is None:
                self._lengths[slot] += 1
                continue
            self._counts[old] -= 1
            if i * PAGE < n_kept:
                copies.append((old, new))
        self._set_writable(slot)
        return copies

    def _free_page(self, slot: int, i: int) -> int:
        """Return a free page that can become page ``i`` of a slot.

        The best page has memory already, then follows the slot's previous page, then is the slot's own.
        """
        following = int(self.table[slot, i - 1]) + 1 if i else -1
        free = [number for number in range(i, self.n_total, self._n) if not self._counts[number]]
        return min(free, key=lambda number: (not self._touched[number], number != following, number // self._n != slot))

    def _set_writable(self, slot: int) -> None:
        """Find the positions from which on a slot's pages are its own."""
        numbers = self.numbers(slot)
        n_shared = next((i for i in range(len(numbers), 0, -1) if self._counts[numbers[i - 1]] > 1), 0)
        self.writable[slot] = n_shared * PAGE, len(numbers) * PAGE


def ring_table(n_slots: int, n_kept: int, n_positions: int) -> Numbers:
    """Return the pages of slots that keep the last ``n_kept`` of ``n_positions`` positions, in turn.

    Both numbers of positions are multiples of `PAGE`; the result is (n_slots, n_positions / PAGE).
    """
    n = n_kept // PAGE
    slots, turns = np.arange(n_slots, dtype=np.int32), np.arange(n_positions // PAGE, dtype=np.int32) % n
    table: Numbers = n * slots[:, None] + turns
    return table


def whole_pages(n_positions: int) -> int:
    """Return a number of positions, rounded up to whole pages."""
    return -(-n_positions // PAGE) * PAGE
