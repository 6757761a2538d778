"""IQ1_M: blocks of 256 weights d·(2s + 1)·(n ± ⅛), with s for each 16 and the sign for each 8 columns, n from a grid.

In the file: 32 bytes with the lowest 8 bits of an index for each 8 columns; 16 bytes with 3 bits of the index and the
sign for each 8 columns; 4 times 2 bytes, with 3 bits of s for each 16 columns and 4 bits of d, a float16.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import FLOATS, INTS, Value, constant
from llamafw_backends.numba_cpu.formats.grids import Grid, every_bit, high_bits, spread_bits, write_nibble
from llamafw_backends.numba_cpu.formats.iq1_s import entry, store_shifted
from llamafw_backends.numba_cpu.formats.iq3_s import odd_steps
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import (
    float_of,
    read_u8,
    read_u16,
    read_u32,
    write_u8,
    write_u16,
    write_u32,
)
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

_GRID = Grid("IQ1_M", unit=0.25, offset=4)


@jit
def _d(packed: int) -> int:
    """Return the bits of d: the upper 4 bits of 4 times 2 bytes."""
    first, second = read_u32(packed), read_u32(packed + 4)
    return first >> 12 & 0x0F | first >> 24 & 0xF0 | second >> 4 & 0xF00 | second >> 16 & 0xF000


@jit
def _s(packed: int, i: int) -> int:
    """Return s of the group ``i`` of 16 columns."""
    return read_u16(packed + i // 4 * 2) >> (i % 4 * 3) & 7


class IQ1_M(QuantFormat):
    """1 word of indices; scales: the upper 3 bits of indices and the signs, a byte for two s, d.

    Bytes are 2·(2n + 2) + 1, without the 1 if the sign is negative.
    """

    name, block_size, block_bytes = "IQ1_M", 256, 56
    word_bytes, scale_bytes, bound, columns_per_scale = 64, 416, 9, 16

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            write_u32(read_u32(source + 4 * record), words + 64 * record + 4 * lane)
            high = read_u16(source + 32 + 2 * record)
            for i in range(4):
                write_nibble(every_bit(high >> i, 4), scales + 32 * record + 8 * i, lane)
            pair = _s(source + 48, 2 * record) | _s(source + 48, 2 * record + 1) << 4
            write_u8(pair, scales + 256 + 16 * record + lane)
        write_u16(_d(source + 48), scales + 384 + 2 * lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = float_of(_d(source + 48))
        for i in range(32):
            high = read_u8(source + 32 + i // 2) >> (i % 2 * 4) & 15
            scale = d * np.float32(2 * _s(source + 48, i // 2) + 1)
            store_shifted(entry(read_u8(source + i) | (high & 7) << 8), high >> 3, scale, out + 32 * i)

    def bytes(self, record: Record) -> list[Value]:
        b, (*high, negative) = record.b, high_bits(record, 0, 4, 32)
        words = _GRID.words(record, [record.word(0)], [high])
        positive = spread_bits(record, b.not_(negative))
        return [b.or_(word, positive[g // 2]) for g, word in enumerate(words)]

    def scale(self, record: Record) -> list[Value]:
        return [record.b.fmul(scale, constant(FLOATS, 0.25)) for scale in self._steps(record)]

    def minimum(self, record: Record) -> list[Value]:
        return [record.b.fmul(scale, constant(FLOATS, -1.125)) for scale in self._steps(record)]

    def _steps(self, record: Record) -> list[Value]:
        """Emit d·(2s + 1) for the first and the last 16 columns."""
        pair, d = record.byte(256, 16), record.half(384)
        both = record.b.and_(pair, constant(INTS, 15)), record.b.lshr(pair, constant(INTS, 4))
        return [odd_steps(record, d, s) for s in both]
