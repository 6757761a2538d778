"""Q3_K: blocks of 256 weights d·s·(q − 4), with s for each 16 columns.

In the file: 32 bytes whose bit i is the highest bit of q of the group i of 32 columns; 64 bytes with the other bits, as
in Q2_K; 12 bytes with the 6 bits of s + 32; float16 d.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import combine, copy_halves, pack_bits, pack_crumbs, spread
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, store_f32, write_u8
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


@jit
def _scale(scales: int, i: int) -> int:
    """Return s of the group ``i`` of 16 columns."""
    low = read_u8(scales + i % 8) >> (i // 8 * 4) & 15
    return (low | (read_u8(scales + 8 + i % 4) >> (i // 4 * 2) & 3) << 4) - 32


class Q3_K(QuantFormat):
    """2 words of 2 bits, 1 word of the highest bits; scales: a signed byte s for each 16 columns, d."""

    name, block_size, block_bytes = "Q3_K", 256, 110
    word_bytes, scale_bytes, bound, columns_per_scale, offset = 192, 288, 7, 16, 4

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            pack_crumbs(source + 32 + record // 4 * 32, 2 * (record % 4), words + 192 * record, lane)
            pack_bits(source, record, words + 192 * record + 128, lane)
        for i in range(16):
            write_u8(_scale(source + 96, i), scales + 16 * i + lane)
        copy_halves(source + 108, 1, scales + 256, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source + 108)
        for i in range(256):
            scale = d * np.float32(_scale(source + 96, i // 16))
            q = read_u8(source + 32 + i // 128 * 32 + i % 32) >> (2 * (i // 32 % 4)) & 3
            q |= (read_u8(source + i % 32) >> (i // 32) & 1) << 2
            store_f32(scale * np.float32(q - 4), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return combine(record, spread(record, 0, 2, 0), spread(record, 2, 1, 2))

    def scale(self, record: Record) -> list[Value]:
        d = record.half(256)
        return [record.times(d, record.byte(16 * i, 32, signed=True)) for i in (0, 1)]
