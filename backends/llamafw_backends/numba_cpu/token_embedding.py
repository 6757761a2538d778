"""Look up rows of the token embedding in the blocks of the file (layouts: ggml-common.h)."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import load_bf16, load_f16, load_f32, load_i8, load_u8, store_f32

NO_KERNEL = 0  # any other type; Python unpacks its rows
KERNEL_KINDS = {name: number for number, name in enumerate(("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"), start=1)}
_F32, _F16, _BF16, _Q8_0, _Q4_0, _Q4_1 = KERNEL_KINDS.values()


@jit
def _embed_floats(kind: int, row: int, n: int, out: int) -> None:
    for i in range(n):
        if kind == _F32:
            store_f32(load_f32(row + 4 * i), out + 4 * i)
        elif kind == _F16:
            store_f32(load_f16(row + 2 * i), out + 4 * i)
        else:
            store_f32(load_bf16(row + 2 * i), out + 4 * i)


@jit
def _embed_bytes(row: int, n: int, out: int) -> None:
    for _ in range(n // 32):
        d = load_f16(row)
        for i in range(32):
            store_f32(d * np.float32(load_i8(row + 2 + i)), out + 4 * i)
        row += 34
        out += 128


@jit
def _embed_nibbles(kind: int, row: int, n: int, out: int) -> None:
    header = 4 if kind == _Q4_1 else 2
    for _ in range(n // 32):
        d = load_f16(row)
        m = load_f16(row + 2) if kind == _Q4_1 else np.float32(0.0)
        offset = 0 if kind == _Q4_1 else 8
        for i in range(16):
            pair = np.int64(load_u8(row + header + i))
            store_f32(d * np.float32((pair & 15) - offset) + m, out + 4 * i)
            store_f32(d * np.float32((pair >> 4) - offset) + m, out + 4 * i + 64)
        row += header + 16
        out += 128


@jit
def embed(o: Any, token: int, index: int, out: int) -> None:
    """Write the row ``token`` of the matrix of a ROW_OP, with the file's exact values.

    Without a kernel for the matrix's type, the row was unpacked as number ``index`` of ``o.embedded``.
    """
    row = o.table + token * o.row_bytes
    if o.kind == NO_KERNEL:
        _embed_floats(_F32, o.embedded + index * 4 * o.n, o.n, out)
    elif o.kind == _Q8_0:
        _embed_bytes(row, o.n, out)
    elif o.kind >= _Q4_0:
        _embed_nibbles(o.kind, row, o.n, out)
    else:
        _embed_floats(o.kind, row, o.n, out)
