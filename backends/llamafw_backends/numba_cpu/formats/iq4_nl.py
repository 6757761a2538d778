"""IQ4_NL: blocks of 32 weights d·v, with v from a table of 16 numbers.

In the file: float16 d; 16 bytes of indices, columns 0–15 in low and 16–31 in high nibbles.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves, copy_words, look_up, nibbles
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

NUMBERS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
BYTES = tuple(number + 128 for number in NUMBERS)


class IQ4_NL(QuantFormat):
    """4 words of nibbles; scales: d."""

    name, block_size, block_bytes = "IQ4_NL", 32, 18
    word_bytes, scale_bytes, bound, offset = 256, 32, 255, 128

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        copy_words(source + 2, 4, words, lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(16):
            pair = read_u8(source + 2 + i)
            store_f32(d * np.float32(NUMBERS[pair & 15]), out + 4 * i)
            store_f32(d * np.float32(NUMBERS[pair >> 4]), out + 64 + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return look_up(record, BYTES, nibbles(record))

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
