"""How the Numba backend stores and multiplies PQ2_0: blocks of 128 weights d·(q − 1) with q from 0 to 3.

In the file: float16 d; 32 bytes with 4 adjacent columns each, the first in the lowest bits.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.kernel_api import (
    QuantFormat,
    Record,
    Value,
    copy_halves,
    load_f16,
    read_u8,
    read_u32,
    spread,
    store_f32,
    transpose_crumbs,
    write_u32,
)


class PQ2_0(QuantFormat):
    """2 words of two bits; scales: d."""

    name, block_size, block_bytes = "PQ2_0", 128, 34
    word_bytes, scale_bytes, bound, offset = 128, 32, 3, 1

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for i in range(8):
            write_u32(transpose_crumbs(read_u32(source + 2 + 4 * i)), words + 64 * i + 4 * lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(128):
            q = read_u8(source + 2 + i // 4) >> (2 * (i % 4)) & 3
            store_f32(np.float32(q - 1) * d, out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return spread(record, 0, 2, 0)

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
