"""Q5_1: blocks of 32 weights d·q + m.

In the file: float16 d, float16 m; 4 bytes whose bit i is the highest bit of column i; 16 bytes with the other bits of
columns 0–15 in low and of 16–31 in high nibbles.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import combine, copy_halves, copy_words, nibbles, pack_bit_string, spread
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q5_1(QuantFormat):
    """4 words of nibbles, 1 word of the highest bits; scales: d, m."""

    name, block_size, block_bytes = "Q5_1", 32, 24
    word_bytes, scale_bytes, bound = 320, 64, 31

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        copy_words(source + 8, 4, words, lane)
        pack_bit_string(read_u32(source + 4), words + 256, lane)
        copy_halves(source, 2, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d, m, bits = load_f16(source), load_f16(source + 2), read_u32(source + 4)
        for i in range(16):
            pair = read_u8(source + 8 + i)
            low, high = (pair & 15) | (bits >> i & 1) << 4, pair >> 4 | (bits >> (i + 16) & 1) << 4
            store_f32(d * np.float32(low) + m, out + 4 * i)
            store_f32(d * np.float32(high) + m, out + 64 + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return combine(record, nibbles(record), spread(record, 4, 1, 4))

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]

    def minimum(self, record: Record) -> list[Value]:
        return [record.half(32)]
