"""Q4_0: blocks of 32 weights d·(q − 8).

In the file: float16 d; 16 bytes with columns 0–15 in low and 16–31 in high nibbles.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves, copy_words, nibbles
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q4_0(QuantFormat):
    """4 words of nibbles; scales: d."""

    name, block_size, block_bytes = "Q4_0", 32, 18
    word_bytes, scale_bytes, bound, offset = 256, 32, 15, 8

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        copy_words(source + 2, 4, words, lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(16):
            pair = read_u8(source + 2 + i)
            store_f32(d * np.float32((pair & 15) - 8), out + 4 * i)
            store_f32(d * np.float32((pair >> 4) - 8), out + 64 + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return nibbles(record)

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
