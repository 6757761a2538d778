"""IQ1_S: blocks of 256 weights d·(2s + 1)·(n ± ⅛), with s and the sign for each 32 columns and n from a grid.

In the file: float16 d; 32 bytes with the lowest 8 bits of an index for each 8 columns; 2 bytes for each 32 columns: 3
bits of each index, 3 bits of s, and the sign.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import FLOATS, INTS, Value, constant
from llamafw_backends.numba_cpu.formats.bits import copy_halves
from llamafw_backends.numba_cpu.formats.grids import Grid, every_bit, high_bits, nibble, write_nibble
from llamafw_backends.numba_cpu.formats.iq3_s import odd_steps
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u16, read_u32, store_f32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

_GRID = Grid("IQ1_S", offset=1)
entry = _GRID.entry


@jit
def store_shifted(entry: int, is_negative: int, scale: float, out: int) -> None:
    """Write the 8 weights scale·(n ± ⅛) of an entry's bytes n + 1."""
    for i in range(8):
        eighths = ((entry >> 8 * i & 255) - 1) * 8 + 1 - 2 * is_negative
        store_f32(scale * (np.float32(eighths) * np.float32(0.125)), out + 4 * i)


class IQ1_S(QuantFormat):
    """1 word of indices; scales: the upper 3 bits of indices, 4 bits of s and the sign for each 32 columns, d."""

    name, block_size, block_bytes = "IQ1_S", 256, 50
    word_bytes, scale_bytes, bound = 64, 288, 2

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            write_u32(read_u32(source + 2 + 4 * record), words + 64 * record + 4 * lane)
            high = read_u16(source + 34 + 2 * record)
            for i in range(3):
                write_nibble(every_bit(high >> i, 3), scales + 24 * record + 8 * i, lane)
            write_nibble(high >> 12, scales + 192 + 8 * record, lane)
        copy_halves(source, 1, scales + 256, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(32):
            high = read_u16(source + 34 + i // 4 * 2)
            scale = d * np.float32(2 * (high >> 12 & 7) + 1)
            index = read_u8(source + 2 + i) | (high >> (i % 4 * 3) & 7) << 8
            store_shifted(entry(index), high >> 15, scale, out + 32 * i)

    def bytes(self, record: Record) -> list[Value]:
        return _GRID.words(record, [record.word(0)], [high_bits(record, 0, 3, 24)])

    def scale(self, record: Record) -> list[Value]:
        s = record.b.and_(nibble(record, 192), constant(INTS, 7))
        return [odd_steps(record, record.half(256), s)]

    def minimum(self, record: Record) -> list[Value]:
        b = record.b
        is_negative = b.icmp_unsigned(">", nibble(record, 192), constant(INTS, 7))
        shift = b.select(is_negative, constant(FLOATS, -1.125), constant(FLOATS, -0.875))
        return [b.fmul(self.scale(record)[0], shift)]
