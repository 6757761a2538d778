"""Q5_0: blocks of 32 weights d·(q − 16).

In the file: float16 d; 4 bytes whose bit i is the highest bit of column i; 16 bytes with the other bits of columns 0–15
in low and of 16–31 in high nibbles.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import combine, copy_halves, copy_words, nibbles, pack_bit_string, spread
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q5_0(QuantFormat):
    """4 words of nibbles, 1 word of the highest bits; scales: d."""

    name, block_size, block_bytes = "Q5_0", 32, 22
    word_bytes, scale_bytes, bound, offset = 320, 32, 31, 16

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        copy_words(source + 6, 4, words, lane)
        pack_bit_string(read_u32(source + 2), words + 256, lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d, bits = load_f16(source), read_u32(source + 2)
        for i in range(16):
            pair = read_u8(source + 6 + i)
            low, high = (pair & 15) | (bits >> i & 1) << 4, pair >> 4 | (bits >> (i + 16) & 1) << 4
            store_f32(d * np.float32(low - 16), out + 4 * i)
            store_f32(d * np.float32(high - 16), out + 64 + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return combine(record, nibbles(record), spread(record, 4, 1, 4))

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
