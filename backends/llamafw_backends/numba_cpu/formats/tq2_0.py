"""TQ2_0: blocks of 256 weights d·(q − 1), with q from 0 to 3.

In the file: 64 bytes of q; float16 d. Byte ``l`` of each 32 bytes of q has column ``l`` of four groups of 32 columns, 2
bits each.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves, pack_crumbs, spread
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class TQ2_0(QuantFormat):
    """2 words of 2 bits; scales: d."""

    name, block_size, block_bytes = "TQ2_0", 256, 66
    word_bytes, scale_bytes, bound, offset = 128, 32, 3, 1

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            pack_crumbs(source + record // 4 * 32, 2 * (record % 4), words + 128 * record, lane)
        copy_halves(source + 64, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source + 64)
        for i in range(256):
            q = read_u8(source + i // 128 * 32 + i % 32) >> (2 * (i // 32 % 4)) & 3
            store_f32(d * np.float32(q - 1), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return spread(record, 0, 2, 0)

    def scale(self, record: Record) -> list[Value]:
        return [record.half(0)]
