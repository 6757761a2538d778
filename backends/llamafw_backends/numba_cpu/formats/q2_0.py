"""Q2_0: blocks of 64 weights d·(q − 1), with q from 0 to 3.

In the file: float16 d; 16 bytes with 4 adjacent columns each, the first one in the lowest bits.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves, spread, transpose_crumbs
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, store_f32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q2_0(QuantFormat):
    """2 words of 2 bits; scales: d."""

    name, block_size, block_bytes = "Q2_0", 64, 18
    word_bytes, scale_bytes, bound, offset = 128, 32, 3, 1

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for i in range(4):
            write_u32(transpose_crumbs(read_u32(source + 2 + 4 * i)), words + 64 * i + 4 * lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(64):
            q = read_u8(source + 2 + i // 4) >> (2 * (i % 4)) & 3
            store_f32(d * np.float32(q - 1), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return spread(record, 0, 2, 0)

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
