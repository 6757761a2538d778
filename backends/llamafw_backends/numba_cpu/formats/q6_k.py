"""Q6_K: blocks of 256 weights d·s·(q − 32), with s for each 16 columns.

In the file: 128 bytes with the lower 4 bits of q; 64 bytes with the upper 2 bits; 16 signed bytes s; float16 d. For
each 128 columns, 64 bytes have two groups of 32 columns in low and two in high nibbles, and byte ``l`` of 32 bytes has
the upper bits of column ``l`` of all four groups.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import (
    combine,
    copy_bytes,
    copy_halves,
    nibbles,
    pack_crumbs,
    pack_nibbles,
    spread,
)
from llamafw_backends.numba_cpu.simd import load_f16, read_i8, read_u8, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


class Q6_K(QuantFormat):
    """4 words of nibbles, 2 words of the upper bits; scales: a signed byte s for each 16 columns, d."""

    name, block_size, block_bytes = "Q6_K", 256, 210
    word_bytes, scale_bytes, bound, columns_per_scale, offset = 384, 288, 63, 16, 32

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            half, group = record // 4, record % 4
            low = source + 64 * half + 32 * (group % 2)
            pack_nibbles(low, low + 16, group // 2 * 4, words + 384 * record, lane)
            pack_crumbs(source + 128 + 32 * half, 2 * group, words + 384 * record + 256, lane)
        copy_bytes(source + 192, 16, scales, lane)
        copy_halves(source + 208, 1, scales + 256, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source + 208)
        for i in range(256):
            half, group, column = i // 128, i // 32 % 4, i % 32
            q = read_u8(source + 64 * half + 32 * (group % 2) + column) >> (group // 2 * 4) & 15
            q |= (read_u8(source + 128 + 32 * half + column) >> (2 * group) & 3) << 4
            scale = d * np.float32(read_i8(source + 192 + i // 16))
            store_f32(scale * np.float32(q - 32), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return combine(record, nibbles(record), spread(record, 4, 2, 4))

    def scale(self, record: Record) -> list[Value]:
        d = record.half(256)
        return [record.times(d, record.byte(16 * i, 32, signed=True)) for i in (0, 1)]
