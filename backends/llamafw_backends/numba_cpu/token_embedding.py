"""Look up rows of an embedding in the blocks of the file."""

from __future__ import annotations

from typing import Any

from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import call_address, load, load_f32, store, store_f32

_unpack = call_address(2)


@jit
def embed(o: Any, token: int, index: int, out: int) -> None:
    """Write the row ``token`` of the matrix of a ROW_OP, with the file's exact values.

    Without a kernel for the matrix's type, Python has unpacked the row as number ``index`` of ``o.embedded``.
    """
    if o.unpack != 0:
        block = o.table + token * o.row_bytes
        for first in range(0, o.n, o.block_size):
            _unpack(o.unpack, block, out + 4 * first)
            block += o.block_bytes
        return
    row, i = o.embedded + index * 4 * o.n, 0
    while i + 64 <= 4 * o.n:
        store(load(row + i), out + i)
        i += 64
    while i < 4 * o.n:
        store_f32(load_f32(row + i), out + i)
        i += 4
