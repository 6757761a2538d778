"""Tables of 16 numbers are looked up in the same way with the instructions of any processor."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from llamafw_backends.numba_cpu import cpu, emit, tables
from llamafw_backends.numba_cpu.emit import INTS
from llamafw_backends.numba_cpu.simd import i64, operation, void

TABLE = np.random.default_rng(0).standard_normal(16).astype(np.float32)


@pytest.mark.parametrize("features", [{"avx512f", "avx2"}, {"avx2"}, set()], ids=["avx512", "avx2", "none"])
def test_lowest_bits_of_an_index_choose_a_number(features: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not features <= cpu.features():
        pytest.skip("the processor does not have these instructions")
    monkeypatch.setattr(tables, "features", lambda: frozenset(features))

    def emit_look_up(b: Any, indices: Any, out: Any) -> None:
        emit.store(b, tables.look_up_floats(b, TABLE.tolist(), emit.load(b, indices, INTS)), out)

    look_up = operation(void, (i64, i64), emit_look_up)

    def run(indices: int, out: int) -> None:
        look_up(indices, out)

    indices = np.random.default_rng(1).integers(-(2**31), 2**31, 16).astype(np.int32)
    found = np.empty(16, np.float32)
    numba.njit(run)(indices.ctypes.data, found.ctypes.data)
    np.testing.assert_array_equal(found, TABLE[indices & 15])
