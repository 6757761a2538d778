"""IQ3_S: blocks of 256 weights ±d·(2s + 1)·n, with s for each 32 columns and n from a grid.

In the file: float16 d; 64 bytes with the lowest 8 bits of an index for each 4 columns; 8 bytes with the ninth bits; 32
bytes of signs; 4 bytes with 4 bits of s each.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import INTS, Value, constant
from llamafw_backends.numba_cpu.formats.bits import copy_halves, pack_bit_string
from llamafw_backends.numba_cpu.formats.grids import Grid, high_bits, nibble, store_entry, write_nibble
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

OFFSET = 16  # numbers are up to 15; a power of two is fastest
_GRID = Grid("IQ3_S", offset=OFFSET)
_entry = _GRID.entry


class IQ3_S(QuantFormat):
    """2 words of indices, 1 word of signs; scales: the ninth bit of indices, 4 bits of s for each 32 columns, d."""

    name, block_size, block_bytes = "IQ3_S", 256, 110
    word_bytes, scale_bytes, bound, offset = 192, 224, OFFSET + 15, OFFSET

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            q, high = source + 2 + 8 * record, read_u8(source + 66 + record)
            write_u32(read_u32(q), words + 192 * record + 4 * lane)
            write_u32(read_u32(q + 4), words + 192 * record + 64 + 4 * lane)
            pack_bit_string(read_u32(source + 74 + 4 * record), words + 192 * record + 128, lane)
            write_nibble(high & 15, scales + 16 * record, lane)
            write_nibble(high >> 4, scales + 16 * record + 8, lane)
            write_nibble(read_u8(source + 106 + record // 2) >> (record % 2 * 4) & 15, scales + 128 + 8 * record, lane)
        copy_halves(source, 1, scales + 192, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(64):
            q = read_u8(source + 2 + i) | (read_u8(source + 66 + i // 8) >> (i % 8) & 1) << 8
            signs = read_u8(source + 74 + i // 2) >> (i % 2 * 4)
            s = read_u8(source + 106 + i // 16) >> (i // 8 % 2 * 4) & 15
            store_entry(_entry(q), 4, signs, OFFSET, d * np.float32(2 * s + 1), out + 16 * i)

    def bytes(self, record: Record) -> list[Value]:
        low, high = high_bits(record, 0, 2, 16)
        return _GRID.words(record, [record.word(0), record.word(1)], [[low], [high]], record.word(2))

    def scale(self, record: Record) -> list[Value]:
        return [odd_steps(record, record.half(192), nibble(record, 128))]


def odd_steps(record: Record, d: Value, s: Value) -> Value:
    """Emit ``d · (2s + 1)``."""
    return record.times(d, record.b.or_(record.b.shl(s, constant(INTS, 1)), constant(INTS, 1)))
