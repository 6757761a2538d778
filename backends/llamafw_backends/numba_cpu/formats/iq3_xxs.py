"""IQ3_XXS: blocks of 256 weights ±d·(s + ½)/2·n, with s for each 32 columns and n, an even number, from a grid.

In the file: float16 d; 64 indices of 4 numbers each; 4 bytes for each 32 columns: 7 bits of signs for each 8 columns,
and 4 bits of s.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves, pack_bit_string
from llamafw_backends.numba_cpu.formats.grids import Grid, nibble, signs_of, store_entry, write_nibble
from llamafw_backends.numba_cpu.formats.iq2_xxs import half_steps
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

OFFSET = 32  # halves of numbers are up to 31; a power of two is fastest
_GRID = Grid("IQ3_XXS", unit=2, offset=OFFSET)
_entry = _GRID.entry


class IQ3_XXS(QuantFormat):
    """2 words of indices, 1 word of signs; scales: 4 bits of s for each 32 columns, d."""

    name, block_size, block_bytes = "IQ3_XXS", 256, 98
    word_bytes, scale_bytes, bound, offset = 192, 96, OFFSET + 31, OFFSET

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            q, signs = source + 2 + 8 * record, read_u32(source + 66 + 4 * record)
            write_u32(read_u32(q), words + 192 * record + 4 * lane)
            write_u32(read_u32(q + 4), words + 192 * record + 64 + 4 * lane)
            pack_bit_string(signs_of(signs), words + 192 * record + 128, lane)
            write_nibble(signs >> 28, scales + 8 * record, lane)
        copy_halves(source, 1, scales + 64, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for record in range(8):
            packed = read_u32(source + 66 + 4 * record)
            scale = d * (np.float32(packed >> 28) + np.float32(0.5))
            signs = signs_of(packed)
            for i in range(8):
                entry = _entry(read_u8(source + 2 + 8 * record + i))
                store_entry(entry, 4, signs >> 4 * i, OFFSET, scale, out + 128 * record + 16 * i)

    def bytes(self, record: Record) -> list[Value]:
        return _GRID.words(record, [record.word(0), record.word(1)], [[], []], record.word(2))

    def scale(self, record: Record) -> list[Value]:
        return [half_steps(record, record.half(64), nibble(record, 0), 1.0)]
