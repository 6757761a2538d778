"""The memory of one cache: the keys and values of all slots, as arrays.

Page i + n · s of n pages per slot is the memory of the positions from 64 · i on of slot s, so a slot's positions follow
one another unless `pages` has given it others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, SettingsError
from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.cache_types import CacheType
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.pages import PAGE, Numbers

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The sizes of a cache in memory.

    Parameters
    ----------
    layout : CacheLayout
        The sizes of keys and values.
    n_slots, n_positions : int
        Number of slots, and of positions that are kept of each, a multiple of `PAGE`.
    keys, values : CacheType
        The types.

    Raises
    ------
    SettingsError
        A type cannot be used for the layout.
    """

    layout: CacheLayout
    n_slots: int
    n_positions: int
    keys: CacheType
    values: CacheType

    def __post_init__(self) -> None:
        for kind, size, flag in zip((self.keys, self.values), self.layout.sizes, ("-ctk", "-ctv"), strict=True):
            if size % kind.columns:
                raise SettingsError(
                    f"{flag} {kind.name} stores blocks of {kind.columns} numbers, but this model has heads of {size}; "
                    "use f16, bf16 or f32"
                )
        if self.layout.latent and self.keys.n_scales:
            raise SettingsError(
                f"-ctk {self.keys.name} cannot be used with this model, whose values are a part of the keys (MLA); use "
                "f16, bf16 or f32"
            )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the blocks of keys, the rows of values, and the scales of values, in bytes."""
        key_size, value_size = self.layout.sizes
        first, n_blocks = (self.n_slots, self.layout.n_head), self.n_positions // LANES
        return (
            (*first, n_blocks, self.keys.format.tile_bytes(key_size)),
            (*first, self.n_positions, self.values.row_bytes(value_size)),
            (*first, n_blocks, self.values.n_scales * value_size),
        )

    @property
    def n_bytes(self) -> int:
        """The size of the cache."""
        return sum(align_up(math.prod(shape)) for shape in self.shapes)

    def allocate(self, arena: Arena, table: Numbers) -> CacheArrays:
        """Return arrays in the memory of ``arena``, of slots with these pages."""
        blocks, rows, scales = (arena.view(arena.allocate(math.prod(shape)), shape, np.uint8) for shape in self.shapes)
        tile, size = self.keys.format, self.layout.key_size
        end = size // tile.columns * tile.word_bytes
        word_bytes = 4 if self.keys.n_scales else self.keys.row_bytes(LANES) // LANES
        key_scales = blocks[..., end : end + size // tile.block_size * tile.scale_bytes]
        words = _by_lane(blocks[..., :end], word_bytes)
        return CacheArrays(table, words, _by_lane(key_scales, 2), rows, _by_lane(scales, 2))


def _by_lane(blocks: Array, n_bytes: int) -> Array:
    """Return a view of bytes, (…, n), as numbers, (…, n / n_bytes / 16, 16)."""
    numbers: Array = blocks.view(f"u{n_bytes}")
    return numbers.reshape(*numbers.shape[:-1], numbers.shape[-1] // LANES, LANES)


@dataclass(frozen=True, slots=True)
class CacheArrays:
    """The keys and values of all slots in one cache.

    Types without scales have arrays of scales without elements.
    """

    table: Numbers  # (n_slots, …): the pages of the slots
    words: Array  # (n_slots, n_head, n_blocks, n_words, 16): keys, a position in each lane
    key_scales: Array  # (n_slots, n_head, n_blocks, n_scales, 16)
    rows: Array  # (n_slots, n_head, n_positions, n_bytes): values
    value_scales: Array  # (n_slots, n_head, n_blocks, n_scales, 16)

    @property
    def n_positions(self) -> int:
        """Number of positions that are kept of a slot."""
        return int(self.rows.shape[2])

    @property
    def by_lane(self) -> tuple[Array, ...]:
        """The arrays with a position in each lane."""
        return self.words, self.key_scales, self.value_scales

    def fields(self) -> dict[str, int]:
        """Return the fields of an ATTENTION record with addresses and strides."""
        return {
            "table": int(self.table.ctypes.data),
            "table_slot": self.table.strides[0],
            "n_pages": self.n_positions // PAGE,
            "keys": int(self.words.ctypes.data),
            "key_slot": self.words.strides[0],
            "key_head": self.words.strides[1],
            "key_block": self.words.strides[2],
            "values": int(self.rows.ctypes.data),
            "value_slot": self.rows.strides[0],
            "value_head": self.rows.strides[1],
            "value_row": self.rows.strides[2],
            "scales": int(self.value_scales.ctypes.data),
            "scale_slot": self.value_scales.strides[0],
            "scale_head": self.value_scales.strides[1],
            "scale_block": self.value_scales.strides[2],
        }

    def n_bytes(self, first: int, last: int) -> int:
        """Return the size of what `copy` returns."""
        block_bytes = sum(part[0, :, 0].nbytes for part in self.by_lane)
        return _count_blocks(first, last) * block_bytes + (last - first) * self.rows[0, :, 0].nbytes

    def copy(self, slot: int, first: int, last: int) -> Bytes:
        """Return a copy of positions ``first`` … ``last - 1`` of a slot, (n_bytes,) uint8.

        The bytes are words, scales of keys, scales of values, all three in whole blocks with zeros for other positions,
        and rows.
        """
        parts = []
        for part in self.by_lane:
            chosen = self.read(part, slot, first, last)
            if chosen.size:
                chosen[:, 0, :, : first % LANES] = 0
                chosen[:, -1, :, (last - 1) % LANES + 1 :] = 0
            parts.append(chosen.reshape(-1).view(np.uint8))
        parts.append(self.read(self.rows, slot, first, last).reshape(-1))
        return np.concatenate(parts)

    def write(self, slot: int, first: int, last: int, copied: Bytes) -> None:
        """Write what `copy` has returned for the same positions."""
        start = 0
        for part in (*self.by_lane, self.rows):
            n = last - first if part is self.rows else _count_blocks(first, last)
            shape = part.shape[1], n, *part.shape[3:]
            end = start + math.prod(shape) * part.itemsize
            self.replace(part, slot, first, last, copied[start:end].view(part.dtype).reshape(shape))
            start = end

    def copy_page(self, old: int, new: int) -> None:
        """Copy a page."""
        n = self.n_positions // PAGE
        for part in (*self.by_lane, self.rows):
            pages = part.reshape(*part.shape[:2], n, part.shape[2] // n, *part.shape[3:])  # a view
            pages[new // n, :, new % n] = pages[old // n, :, old % n]

    def move(self, slot: int, first: int, n: int, end: int) -> None:
        """Move positions ``first + n`` … ``end - 1`` of a slot down by ``n``; the cache has all positions."""
        for part in self.by_lane:
            by_position = self.read(part, slot, first, end).swapaxes(2, 3)
            n_head, n_blocks, _, size = by_position.shape
            rows = by_position.reshape(n_head, n_blocks * LANES, size)  # a copy
            start = first % LANES
            rows[:, start : start + end - n - first] = rows[:, start + n : start + end - first].copy()
            self.replace(part, slot, first, end, rows.reshape(by_position.shape).swapaxes(2, 3))
        self.replace(self.rows, slot, first, end - n, self.read(self.rows, slot, first + n, end))

    def runs(self, slot: int, first: int, last: int) -> list[tuple[int, int, int, int]]:
        """Return the runs of positions ``first`` … ``last - 1`` in memory.

        Of each, the result has its first position, its end, the slot whose memory it is in, and its place there.
        """
        n, previous = self.n_positions // PAGE, -2
        runs: list[tuple[int, int, int, int]] = []
        pages = [int(number) for number in self.table[slot, first // PAGE : -(-last // PAGE)]]
        for i, number in enumerate(pages, first // PAGE):
            begin, end = max(first, i * PAGE), min(last, (i + 1) * PAGE)
            if runs and number == previous + 1:
                runs[-1] = (runs[-1][0], end, *runs[-1][2:])
            elif begin < end:
                runs.append((begin, end, number // n, number % n * PAGE + begin % PAGE))
            previous = number
        return runs

    def _views(self, part: Array, slot: int, first: int, last: int) -> list[Array]:
        """Return the blocks or rows of positions, (n_head, n, …) in each run."""
        size = self.n_positions // part.shape[2]  # positions in a block, or in a row
        runs = self.runs(slot, first // size * size, -(-last // size) * size)
        return [part[owner, :, place // size :][:, : (end - begin) // size] for begin, end, owner, place in runs]

    def read(self, part: Array, slot: int, first: int, last: int) -> Array:
        """Return a copy of the blocks or rows of positions, (n_head, n, …)."""
        return np.concatenate([part[0, :, :0], *self._views(part, slot, first, last)], axis=1)

    def replace(self, part: Array, slot: int, first: int, last: int, values: Array) -> None:
        """Write the blocks or rows of positions, (n_head, n, …)."""
        start = 0
        for view in self._views(part, slot, first, last):
            view[...] = values[:, start : start + view.shape[1]]
            start += view.shape[1]


def _count_blocks(first: int, last: int) -> int:
    return -(-last // LANES) - first // LANES
