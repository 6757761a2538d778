"""Arenas are aligned and limited, and use memory only where they are touched."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from llamafw_backends.numba_cpu.memory import Arena


def test_arenas_are_aligned_and_limited() -> None:
    arena = Arena(1000)
    addresses = [arena.allocate(100) for _ in range(7)]
    assert all(address % 64 == 0 for address in addresses)
    assert not arena.view(addresses[3], (25,), np.float32).any()
    with pytest.raises(MemoryError, match="200 bytes do not fit"):
        arena.allocate(200)


def test_stored_arrays_are_copies() -> None:
    arena, values = Arena(1000), np.arange(9, dtype=np.float32)
    address = arena.store(values)
    values[:] = 0
    assert arena.view(address, (9,), np.float32).tolist() == list(range(9))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows commits the whole arena at once")
def test_arena_can_be_larger_than_the_memory() -> None:
    arena = Arena(1 << 40)  # a tebibyte
    address = arena.allocate(1 << 39)
    arena.view(address + (1 << 38), (4,), np.int32)[...] = 7
    assert arena.view(address + (1 << 38), (1,), np.int32)[0] == 7
