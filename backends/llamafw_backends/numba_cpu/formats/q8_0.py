"""Q8_0: blocks of 32 weights d·q.

In the file: float16 d; 32 signed bytes.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves
from llamafw_backends.numba_cpu.simd import load_f16, read_i8, read_u32, store_f32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q8_0(QuantFormat):
    """8 words of bytes with 128 added to each; scales: d."""

    name, block_size, block_bytes = "Q8_0", 32, 34
    word_bytes, scale_bytes, bound, offset = 512, 32, 255, 128

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for i in range(8):
            write_u32(read_u32(source + 2 + 4 * i) ^ 0x80808080, words + 64 * i + 4 * lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(32):
            store_f32(d * np.float32(read_i8(source + 2 + i)), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return [record.word(i) for i in range(8)]

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
