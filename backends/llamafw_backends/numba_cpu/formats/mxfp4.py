"""MXFP4: blocks of 32 weights 2^(e − 128)·v, with v from a table of 16 numbers.

In the file: a byte e; 16 bytes of indices, columns 0–15 in low and 16–31 in high nibbles. The table has the values of
four-bit floats, doubled, so that they are integers. See
https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf. As in ggml, e = 255 is a power of
two like others, and not NaN.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import F32, FLOATS, I32, INTS, Builder, Value, constant
from llamafw_backends.numba_cpu.formats.bits import copy_bytes, copy_words, look_up, nibbles
from llamafw_backends.numba_cpu.simd import f32, i64, operation, read_u8, store_f32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

NUMBERS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
OFFSET = 16  # a power of two, which is subtracted faster than 12


def emit_power(b: Builder, e: Value) -> Value:
    """Emit 2^(e − 128) as float32, for one int32 or 16 of them; for e < 2 it is subnormal."""
    is_vector = e.type == INTS
    small = b.icmp_unsigned("<", e, constant(e.type, 2))
    subnormal = b.shl(b.add(e, constant(e.type, 1)), constant(e.type, 21))  # 1 << 21 and 1 << 22
    bits = b.select(small, subnormal, b.shl(b.sub(e, constant(e.type, 1)), constant(e.type, 23)))
    return b.bitcast(bits, FLOATS if is_vector else F32)


_power = operation(f32, (i64,), lambda b, e: emit_power(b, b.trunc(e, I32)))


class MXFP4(QuantFormat):
    """4 words of nibbles; scales: the byte e."""

    name, block_size, block_bytes = "MXFP4", 32, 17
    word_bytes, scale_bytes, bound, offset = 256, 16, OFFSET + 12, OFFSET

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        copy_words(source + 1, 4, words, lane)
        copy_bytes(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        scale = _power(read_u8(source))
        for i in range(16):
            pair = read_u8(source + 1 + i)
            store_f32(scale * np.float32(NUMBERS[pair & 15]), out + 4 * i)
            store_f32(scale * np.float32(NUMBERS[pair >> 4]), out + 64 + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return look_up(record, [number + OFFSET for number in NUMBERS], nibbles(record))

    def scale(self, record: Record) -> list[Value]:
        return [emit_power(record.b, record.byte(0))]
