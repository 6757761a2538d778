"""IQ2_XS: blocks of 256 weights ±d·(s + ½)/4·n, with s for each 16 columns and n from a grid.

In the file: float16 d; 2 bytes for each 8 columns: 9 bits of index, 7 bits of signs; 8 bytes with 4 bits of s each.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import INTS, Value, constant
from llamafw_backends.numba_cpu.formats.bits import copy_bytes, copy_halves, pack_bit_string
from llamafw_backends.numba_cpu.formats.grids import Grid, high_bits, signs_of, store_entry, write_nibble
from llamafw_backends.numba_cpu.formats.iq2_xxs import OFFSET, half_steps
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u16, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

_GRID = Grid("IQ2_XS", offset=OFFSET)
_entry = _GRID.entry


class IQ2_XS(QuantFormat):
    """1 word of indices, 1 word of signs; scales: s as in the file, the ninth bit of indices, d."""

    name, block_size, block_bytes = "IQ2_XS", 256, 74
    word_bytes, scale_bytes, bound, columns_per_scale, offset = 128, 224, OFFSET + 43, 16, OFFSET

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            low, high, signs = 0, 0, 0
            for i in range(4):
                q = read_u16(source + 2 + 8 * record + 2 * i)
                low |= (q & 255) << 8 * i
                high |= (q >> 8 & 1) << i
                signs |= q >> 9 << 7 * i
            write_u32(low, words + 128 * record + 4 * lane)
            pack_bit_string(signs_of(signs), words + 128 * record + 64, lane)
            write_nibble(high, scales + 128 + 8 * record, lane)
        copy_bytes(source + 66, 8, scales, lane)
        copy_halves(source, 1, scales + 192, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(32):
            q, s = read_u16(source + 2 + 2 * i), read_u8(source + 66 + i // 4) >> (i // 2 % 2 * 4) & 15
            scale = d * (np.float32(s) + np.float32(0.5)) * np.float32(0.25)
            store_entry(_entry(q & 511), 8, signs_of(q >> 9), OFFSET, scale, out + 32 * i)

    def bytes(self, record: Record) -> list[Value]:
        return _GRID.words(record, [record.word(0)], [high_bits(record, 128, 1, 8)], record.word(1))

    def scale(self, record: Record) -> list[Value]:
        return two_scales(record, record.half(192))


def two_scales(record: Record, d: Value) -> list[Value]:
    """Emit d·(s + ½)/4 for the first and the last 16 columns; the scales begin with a byte for both s."""
    pair = record.byte(0, 16)
    both = record.b.and_(pair, constant(INTS, 15)), record.b.lshr(pair, constant(INTS, 4))
    return [half_steps(record, d, s, 0.25) for s in both]
