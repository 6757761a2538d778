"""Runs of keys and values: blocks of 16 positions that follow one another in memory.

A slot's pages (see `pages`) may be anywhere in a cache. Kernels that read a slot's positions find the runs first, and
then read run by run, so they look up few addresses. Usually all positions are one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import I64, Builder, Value, address, constant
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.pages import PAGE
from llamafw_backends.numba_cpu.simd import read_u32, store_i64

RUN_BYTES = 40
_PAGE_BLOCKS = PAGE // emit.LANES


def max_runs_bytes(n_positions: int) -> int:
    """Return the largest size of the runs of this many positions, of which the first is in the middle of a page."""
    return RUN_BYTES * (n_positions // PAGE + 2)


@jit
def find_runs(r: Any, slot: int, first: int, end: int, runs: int) -> int:
    """Write the runs of blocks ``first`` … ``end - 1`` of a slot; return their number.

    A run is five int64: its first block, its end, and how many bytes its keys, its values and the scales of values are
    behind where they would be if the cache began with position 0 of the slot. ``r`` has the fields of ATTENTION.
    """
    n, block, table = 0, first, r.table + slot * r.table_slot
    while block < end:
        page = block // _PAGE_BLOCKS
        number = read_u32(table + 4 * page)
        following = page + 1
        while following * _PAGE_BLOCKS < end and read_u32(table + 4 * following) == number + following - page:
            following += 1

        run, owner = runs + RUN_BYTES * n, number // r.n_pages
        distance = (number % r.n_pages - page) * _PAGE_BLOCKS
        store_i64(block, run)
        block = min(end, following * _PAGE_BLOCKS)
        store_i64(block, run + 8)
        store_i64(owner * r.key_slot + distance * r.key_block, run + 16)
        store_i64(owner * r.value_slot + distance * emit.LANES * r.value_row, run + 24)
        store_i64(owner * r.scale_slot + distance * r.scale_block, run + 32)
        n += 1
    return n


@dataclass(frozen=True, slots=True)
class Run:
    """A run that `find_runs` has written."""

    first: Value  # block
    end: Value
    keys: Value  # distances in bytes
    values: Value
    scales: Value

    @classmethod
    def load(cls, b: Builder, runs: Value, i: Value) -> Run:
        """Emit loading run number ``i``."""
        place = b.add(runs, b.mul(i, constant(I64, RUN_BYTES)))
        return cls(*(emit.load(b, address(b, place, offset), I64) for offset in (0, 8, 16, 24, 32)))
