"""NVFP4: blocks of 64 weights s·v, with s for each 16 columns, and v from the table of MXFP4.

In the file: 4 bytes, the unsigned 8-bit floats 2·s with 4 bits of exponent and 3 of mantissa (UE4M3); 32 bytes of
indices. For each 16 columns, 8 bytes have columns 0–7 in low and 8–15 in high nibbles. A tensor may have another scale,
which the graph multiplies products by.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import BYTES, FLOATS, SHORTS, Value, constant
from llamafw_backends.numba_cpu.formats.bits import copy_words, look_up, nibbles
from llamafw_backends.numba_cpu.formats.mxfp4 import NUMBERS
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import float_of, read_u8, store_f32, write_u8
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

OFFSET = 12
ORDER = (0, 1, 4, 5, 2, 3, 6, 7)  # of the words that `nibbles` returns, as the file has 8 columns in low nibbles
SHIFT, FACTOR = 7, 128.0  # the bits of a scale are those of a float16 that is 128 times as small


@jit
def scale_bits(byte: int) -> int:
    """Return the 7 bits of a scale; ggml reads 0x7F as 0 and ignores the highest bit, so 0xFF is 1.875 · 2⁸."""
    return (byte & 0x7F) * (byte != 0x7F)


class NVFP4(QuantFormat):
    """4 words of nibbles; scales: a byte for each 16 columns, of which all 7 bits are a number."""

    name, block_size, block_bytes = "NVFP4", 64, 36
    word_bytes, scale_bytes, bound, columns_per_scale, offset = 256, 64, OFFSET + 12, 16, OFFSET

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        copy_words(source + 4, 8, words, lane)
        for i in range(4):
            write_u8(scale_bits(read_u8(source + i)), scales + 16 * i + lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        for i in range(64):
            scale = float_of(scale_bits(read_u8(source + i // 16)) << SHIFT) * np.float32(FACTOR)
            index = read_u8(source + 4 + i // 16 * 8 + i % 8) >> (i // 8 % 2 * 4) & 15
            store_f32(scale * np.float32(NUMBERS[index]), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        indices = nibbles(record)
        return look_up(record, [number + OFFSET for number in NUMBERS], [indices[i] for i in ORDER])

    def scale(self, record: Record) -> list[Value]:
        b, scales = record.b, []
        for i in (0, 1):
            bits = b.zext(emit.load(b, record.scale_address(16 * i, 32), BYTES), SHORTS)
            halves = emit.half_to_float(b, b.shl(bits, constant(SHORTS, SHIFT)))
            scales.append(b.fmul(halves, constant(FLOATS, FACTOR)))
        return scales
