"""Q1_0: blocks of 128 weights ±d.

In the file: float16 d; 16 bytes with a bit per column, the first one lowest: 1 for d, 0 for −d.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves, pack_bit_string, spread
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q1_0(QuantFormat):
    """1 word of bits; scales: d."""

    name, block_size, block_bytes = "Q1_0", 128, 18
    word_bytes, scale_bytes, bound, offset = 64, 32, 2, 1  # bytes are 0 or 2

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(4):
            pack_bit_string(read_u32(source + 2 + 4 * record), words + 64 * record, lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(128):
            bit = read_u8(source + 2 + i // 8) >> i % 8 & 1
            store_f32(d * np.float32(2 * bit - 1), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return spread(record, 0, 1, 1)

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
