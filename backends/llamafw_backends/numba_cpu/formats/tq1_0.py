"""TQ1_0: blocks of 256 weights d·(q − 1), with q from 0 to 2.

In the file: 52 bytes of q, float16 d. A byte has 5 digits to base 3: the first one is ``floor(3 · byte / 256)``, and
``3 · byte mod 256`` has the others. The first digits of 32 bytes are columns 0–31, their second digits columns 32–63
and so on. The digits of 16 bytes are the columns from 160, and 4 digits each of 4 bytes those from 240.

In a tile, 5 of 8 groups of 4 columns are such digits too. The others have 2 bits per column, which take fewer
instructions. That makes 1.81 bits per weight; a file has 1.69.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import I16, I32, I64, INTS, Value, constant
from llamafw_backends.numba_cpu.formats.bits import CRUMBS, copy_halves, mask
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import load_f16, read_u32, store_f32, write_u32
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record

N_DIGITS, N_CRUMBS = 5, 3  # groups of 4 columns of a record, by how they are stored
CRUMBS_BYTES = 64 * N_CRUMBS  # for 4 records
PLACES = (  # of each group of 4 columns in the file: the first of 4 bytes, and the number of the digit
    *((4 * (i % 8), i // 8) for i in range(40)),
    *((32 + 4 * (i % 4), i // 4) for i in range(20)),
    *((48, i) for i in range(4)),
)
FIRST_BYTES = np.array([byte for byte, _ in PLACES], np.int64)
POWERS = np.array([3**digit for _, digit in PLACES], np.int64)
EVEN, ODD, LOW = 0x00FF00FF, 0xFF00FF00, 0x00FF00FF00FF00FF  # masks of every second byte
_SHORTS = ir.VectorType(I16, 32)  # of a word


@jit
def _group(source: int, i: int) -> int:
    """Return q of the columns 4 i … 4 i + 3, 16 bits each: of even columns, then of odd ones."""
    word = read_u32(source + FIRST_BYTES[i])
    digits = (word & EVEN | (word & ODD) << 24) * POWERS[i] & LOW
    return 3 * digits >> 8 & LOW


@jit
def _join(numbers: int) -> int:
    """Return the bytes of 4 numbers of 16 bits, which are in the order of `_group`."""
    return numbers | numbers >> 24


@jit
def _encode(numbers: int) -> int:
    """Return bytes with the 5 digits of 4 numbers from 0 to 242, which are in the order of `_group`.

    They are at least 256/243 · number, and less than 256/243 · (number + 1).
    """
    even, odd = numbers & EVEN, numbers >> 32  # apart, as the product of all four could overflow
    even += (219 * even + 0x107B107B >> 12) & 0x000F000F  # 219 / 4096 ≈ 13 / 243; 0x107B = 4219 rounds up
    odd += (219 * odd + 0x107B107B >> 12) & 0x000F000F
    return even | odd << 8


class TQ1_0(QuantFormat):
    """1 word of digits; scales: 3 words of 2 bits for each 4 records, d."""

    name, block_size, block_bytes = "TQ1_0", 256, 54
    word_bytes, scale_bytes, bound, offset = 64, 2 * CRUMBS_BYTES + 32, 2, 1

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            numbers = 0
            for i in range(N_DIGITS):
                numbers = 3 * numbers + _group(source, 8 * record + i)
            write_u32(_encode(numbers), words + 64 * record + 4 * lane)
        for i in range(2 * N_CRUMBS):
            word, first = 0, i // N_CRUMBS * 32 + N_DIGITS + i % N_CRUMBS
            for record in range(4):
                word |= _group(source, first + 8 * record) << 2 * record
            write_u32(_join(word), scales + 64 * i + 4 * lane)
        copy_halves(source + 52, 1, scales + 2 * CRUMBS_BYTES, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source + 52)
        for i in range(256):
            q = _join(_group(source, i // 4)) >> 8 * (i % 4) & 3
            store_f32(d * np.float32(q - 1), out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        b, words = record.b, []
        left = b.bitcast(record.word(0), _SHORTS)
        three, eight, low = (constant(_SHORTS, value) for value in (3, 8, 0x00FF))
        even, odd = b.and_(left, low), b.lshr(left, eight)
        for _ in range(N_DIGITS):
            even, odd = b.mul(even, three), b.mul(odd, three)
            digits = b.or_(b.lshr(even, eight), b.and_(odd, constant(_SHORTS, 0xFF00)))
            words.append(b.bitcast(digits, INTS))
            even, odd = b.and_(even, low), b.and_(odd, low)
        return words + self._crumbs(record)

    def _crumbs(self, record: Record) -> list[Value]:
        """Emit the words of 2 bits per column."""
        b, four = record.b, constant(I64, 4)
        crumbs = b.add(record.scales, b.mul(b.udiv(record.number, four), constant(I64, CRUMBS_BYTES)))
        shift = emit.splat(b, b.trunc(b.mul(b.urem(record.number, four), constant(I64, 2)), I32))
        loaded = [emit.load(b, emit.address(b, crumbs, 64 * i), INTS) for i in range(N_CRUMBS)]
        return [mask(record, b.lshr(word, shift), CRUMBS) for word in loaded]

    def scale(self, record: Record) -> list[Value]:
        return [record.half(2 * CRUMBS_BYTES)]
