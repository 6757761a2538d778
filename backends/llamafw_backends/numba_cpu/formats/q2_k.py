"""Q2_K: blocks of 256 weights d·s·q − dmin·m, with s and m for each 16 columns.

In the file: 16 bytes with s in low and m in high nibbles; 64 bytes of q; float16 d, float16 dmin. Byte ``l`` of each 32
bytes of q has column ``l`` of four groups of 32 columns, 2 bits each.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import INTS, Value, constant
from llamafw_backends.numba_cpu.formats.bits import copy_bytes, copy_halves, pack_crumbs, spread
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q2_K(QuantFormat):
    """2 words of 2 bits; scales: a byte for each 16 columns as in the file, d, dmin."""

    name, block_size, block_bytes = "Q2_K", 256, 84
    word_bytes, scale_bytes, bound, columns_per_scale = 128, 320, 3, 16

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            pack_crumbs(source + 16 + record // 4 * 32, 2 * (record % 4), words + 128 * record, lane)
        copy_bytes(source, 16, scales, lane)
        copy_halves(source + 80, 2, scales + 256, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d, dmin = load_f16(source + 80), load_f16(source + 82)
        for i in range(256):
            pair = read_u8(source + i // 16)
            scale, minimum = d * np.float32(pair & 15), dmin * np.float32(pair >> 4)
            q = read_u8(source + 16 + i // 128 * 32 + i % 32) >> (2 * (i // 32 % 4)) & 3
            store_f32(scale * np.float32(q) - minimum, out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return spread(record, 0, 2, 0)

    def scale(self, record: Record) -> list[Value]:
        d, b = record.half(256), record.b
        return [record.times(d, b.and_(record.byte(16 * i, 32), constant(INTS, 15))) for i in (0, 1)]

    def minimum(self, record: Record) -> list[Value]:
        dmin, b = record.b.fneg(record.half(288)), record.b
        return [record.times(dmin, b.lshr(record.byte(16 * i, 32), constant(INTS, 4))) for i in (0, 1)]
