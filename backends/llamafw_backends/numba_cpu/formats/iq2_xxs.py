"""IQ2_XXS: blocks of 256 weights ±d·(s + ½)/4·n, with s for each 32 columns and n from a grid.

In the file: float16 d; 8 bytes for each 32 columns: 4 indices of 8 numbers each, then 7 bits of signs for each index,
and 4 bits of s.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import FLOATS, Value, constant
from llamafw_backends.numba_cpu.formats.bits import copy_halves, pack_bit_string
from llamafw_backends.numba_cpu.formats.grids import Grid, nibble, signs_of, store_entry, write_nibble
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

OFFSET = 64  # numbers are up to 43; a power of two is fastest
_GRID = Grid("IQ2_XXS", offset=OFFSET)
_entry = _GRID.entry


class IQ2_XXS(QuantFormat):
    """1 word of indices, 1 word of signs; scales: 4 bits of s for each 32 columns, d."""

    name, block_size, block_bytes = "IQ2_XXS", 256, 66
    word_bytes, scale_bytes, bound, offset = 128, 96, OFFSET + 43, OFFSET

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            q, signs = read_u32(source + 2 + 8 * record), read_u32(source + 6 + 8 * record)
            write_u32(q, words + 128 * record + 4 * lane)
            pack_bit_string(signs_of(signs), words + 128 * record + 64, lane)
            write_nibble(signs >> 28, scales + 8 * record, lane)
        copy_halves(source, 1, scales + 64, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for record in range(8):
            packed = read_u32(source + 6 + 8 * record)
            scale = d * (np.float32(packed >> 28) + np.float32(0.5)) * np.float32(0.25)
            signs = signs_of(packed)
            for i in range(4):
                entry = _entry(read_u8(source + 2 + 8 * record + i))
                store_entry(entry, 8, signs >> 8 * i, OFFSET, scale, out + 128 * record + 32 * i)

    def bytes(self, record: Record) -> list[Value]:
        return _GRID.words(record, [record.word(0)], [[]], record.word(1))

    def scale(self, record: Record) -> list[Value]:
        return [half_steps(record, record.half(64), nibble(record, 0), 0.25)]


def half_steps(record: Record, d: Value, s: Value, factor: float) -> Value:
    """Emit ``d · (s + ½) · factor``."""
    steps = record.b.fadd(record.b.sitofp(s, FLOATS), constant(FLOATS, 0.5))
    return record.b.fmul(record.b.fmul(d, steps), constant(FLOATS, factor))
