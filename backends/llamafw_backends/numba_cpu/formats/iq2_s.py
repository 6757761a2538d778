"""IQ2_S: blocks of 256 weights ±d·(s + ½)/4·n, with s for each 16 columns and n from a grid.

In the file: float16 d; 32 bytes with the lowest 8 bits of an index for each 8 columns; 32 bytes of signs; 8 bytes with
2 bits of each index; 8 bytes with 4 bits of s each.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_bytes, copy_halves, pack_bit_string
from llamafw_backends.numba_cpu.formats.grids import Grid, every_bit, high_bits, store_entry, write_nibble
from llamafw_backends.numba_cpu.formats.iq2_xs import two_scales
from llamafw_backends.numba_cpu.formats.iq2_xxs import OFFSET
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

_GRID = Grid("IQ2_S", offset=OFFSET)
_entry = _GRID.entry


class IQ2_S(QuantFormat):
    """1 word of indices, 1 word of signs; scales: s as in the file, the upper two bits of indices, d."""

    name, block_size, block_bytes = "IQ2_S", 256, 82
    word_bytes, scale_bytes, bound, columns_per_scale, offset = 128, 288, OFFSET + 43, 16, OFFSET

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            write_u32(read_u32(source + 2 + 4 * record), words + 128 * record + 4 * lane)
            pack_bit_string(read_u32(source + 34 + 4 * record), words + 128 * record + 64, lane)
            high = read_u8(source + 66 + record)
            for i in range(2):
                write_nibble(every_bit(high >> i, 2), scales + 128 + 16 * record + 8 * i, lane)
        copy_bytes(source + 74, 8, scales, lane)
        copy_halves(source, 1, scales + 256, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(32):
            q = read_u8(source + 2 + i) | (read_u8(source + 66 + i // 4) >> (i % 4 * 2) & 3) << 8
            s = read_u8(source + 74 + i // 4) >> (i // 2 % 2 * 4) & 15
            scale = d * (np.float32(s) + np.float32(0.5)) * np.float32(0.25)
            store_entry(_entry(q), 8, read_u8(source + 34 + i), OFFSET, scale, out + 32 * i)

    def bytes(self, record: Record) -> list[Value]:
        return _GRID.words(record, [record.word(0)], [high_bits(record, 128, 2, 16)], record.word(1))

    def scale(self, record: Record) -> list[Value]:
        return two_scales(record, record.half(256))
