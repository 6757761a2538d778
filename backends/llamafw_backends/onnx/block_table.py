"""Says which blocks of a tensor hold the positions of each slot, so that slots of any length share one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BLOCK = 256
"""Positions per block. PagedAttention's fast kernels need a multiple of this for heads of at most 64 numbers."""

UNUSED = 0
"""The block of rows that only fill a batch: no slot has it."""


@dataclass(slots=True)
class BlockTable:
    """The blocks of each slot, in the order of its positions.

    Attributes
    ----------
    n_slots : int
        How many slots there are.
    n_blocks : int
        How many blocks the tensors have; the first one is `UNUSED`.
    """

    n_slots: int
    n_blocks: int = 1
    _slots: list[list[int]] = field(default_factory=list)
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._slots = [[] for _ in range(self.n_slots)]

    def of(self, slot: int, n: int) -> list[int]:
        """Return the blocks of the first ``n`` positions of a slot."""
        return self._slots[slot][: count_blocks(n)]

    def missing(self, ends: Mapping[int, int]) -> int:
        """Return how many more blocks the tensors need before slots can have so many positions."""
        return max(0, sum(self._new(slot, n) for slot, n in ends.items()) - len(self._free))

    def add(self, n_blocks: int) -> None:
        """Say that the tensors have more blocks now: ``n_blocks``."""
        self._free += range(n_blocks - 1, self.n_blocks - 1, -1)
        self.n_blocks = n_blocks

    def reserve(self, ends: Mapping[int, int]) -> None:
        """Give slots blocks for so many positions; the tensors must have them."""
        for slot, n in ends.items():
            self._slots[slot] += [self._free.pop() for _ in range(self._new(slot, n))]

    def cut(self, slot: int, n: int) -> None:
        """Take the blocks after the first ``n`` positions from a slot."""
        blocks = self._slots[slot]
        while len(blocks) > count_blocks(n):
            self._free.append(blocks.pop())

    def rows(self, slots: Iterable[int], n_columns: int) -> npt.NDArray[np.int32]:
        """Return the blocks of slots, ``(n, n_columns)``; `UNUSED` after the last one."""
        lists = [self._slots[slot][:n_columns] for slot in slots]
        table = np.full((len(lists), n_columns), UNUSED, np.int32)
        for row, blocks in zip(table, lists, strict=True):
            row[: len(blocks)] = blocks
        return table

    def _new(self, slot: int, n: int) -> int:
        return max(0, count_blocks(n) - len(self._slots[slot]))


def count_blocks(n: int) -> int:
    """Return how many blocks ``n`` positions need."""
    return -(-n // BLOCK)
