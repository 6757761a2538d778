"""IQ4_XS: blocks of 256 weights d·(s − 32)·v, with s for each 32 columns, and v from the table of IQ4_NL.

In the file: float16 d; 2 bytes with the upper 2 bits of each s; 4 bytes with the lower 4 bits; 128 bytes of indices.
For each 32 columns, 16 bytes have columns 0–15 in low and 16–31 in high nibbles.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import copy_halves, copy_words, look_up, nibbles
from llamafw_backends.numba_cpu.formats.iq4_nl import BYTES, NUMBERS
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u16, read_u32, store_f32, write_u8
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


@jit
def _scale(source: int, i: int) -> int:
    """Return s − 32 of the group ``i`` of 32 columns."""
    low, high = read_u32(source + 4) >> 4 * i & 15, read_u16(source + 2) >> 2 * i & 3
    return (low | high << 4) - 32


class IQ4_XS(QuantFormat):
    """4 words of nibbles; scales: a signed byte s − 32 for each 32 columns, d."""

    name, block_size, block_bytes = "IQ4_XS", 256, 136
    word_bytes, scale_bytes, bound, offset = 256, 160, 255, 128

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        copy_words(source + 8, 32, words, lane)
        for i in range(8):
            write_u8(_scale(source, i), scales + 16 * i + lane)
        copy_halves(source, 1, scales + 128, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source)
        for i in range(256):
            scale = d * np.float32(_scale(source, i // 32))
            index = read_u8(source + 8 + i // 32 * 16 + i % 16) >> (i // 16 % 2 * 4) & 15
            store_f32(scale * np.float32(NUMBERS[index]), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return look_up(record, BYTES, nibbles(record))

    def scale(self, record: Record) -> list[Value]:
        return [record.times(record.half(128), record.byte(0, 16, signed=True))]
