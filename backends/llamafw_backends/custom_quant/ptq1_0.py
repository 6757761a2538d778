"""How the Numba backend stores and multiplies PTQ1_0: blocks of 128 weights d·(q − 1) with q from 0 to 2.

In the file, a byte holds 5 digits to base 3: its most significant one is ``floor(3 · byte / 256)``, and
``3 · byte mod 256`` holds the others. `llamafw_backends.custom_quant.types` says which columns the bytes have.

In a tile, 5 of 8 groups of 4 columns are stored in the same way. The other 3 have two bits per column, because two bits
take fewer instructions, and the words of 4 records share their bits. That makes 1.88 bits per weight; a file has 1.75.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from llamafw_backends.numba_cpu.kernel_api import (
    INTS,
    Builder,
    QuantFormat,
    Record,
    Value,
    call,
    constant,
    copy_halves,
    jit,
    load,
    load_f16,
    mask,
    read_u16,
    read_u32,
    splat_int,
    store_f32,
    write_u32,
)

N_BASE_3, N_CRUMBS = 5, 3  # groups of 4 columns per record: of each kind
POWERS = (1, 3, 9, 27, 81)
WORD = ir.VectorType(ir.IntType(8), 64)  # 16 rows of 4 bytes
EVEN, CRUMBS = 0x00FF00FF, 0x03030303  # masks: every second byte; two bits of each byte


@jit
def digits(word: int, power: int) -> int:
    """Return a digit of each of 4 bytes: the first one if ``power`` is 1, the second one if it is 3 …"""
    even = 3 * ((word & EVEN) * power & EVEN) >> 8
    odd = 3 * ((word >> 8 & EVEN) * power & EVEN) >> 8
    return even & EVEN | (odd & EVEN) << 8


@jit
def group(source: int, i: int) -> int:
    """Return the digits of the columns 4 i … 4 i + 3 of a block, a byte each."""
    is_late = int(i >= 20)  # the first 16 bytes have the digits of 80 columns, the next 8 those of 40
    number, n_words = i - 20 * is_late, 4 - 2 * is_late
    word = read_u32(source + 16 * is_late + 4 * (number % n_words))
    pair = read_u16(source + 24)  # the last 2 bytes have the digits of 8 columns
    last = pair | (3 * pair & 0xFF) << 16 | (3 * (pair >> 8) & 0xFF) << 24  # two digits are in one word
    is_last = i >= 30
    power = POWERS[2 * (i - 30) if is_last else number // n_words]
    return digits(last if is_last else word, power)


@jit
def encode(numbers: int) -> int:
    """Return a byte for each of 4 numbers of 5 digits: ``floor(243 · byte / 256)`` is the number."""
    even, odd = numbers & EVEN, numbers >> 8 & EVEN
    even += (219 * even + 0x107B107B >> 12) & 0x000F000F  # 219 / 4096 ≈ 13 / 243, and 4219 ≈ 4096
    odd += (219 * odd + 0x107B107B >> 12) & 0x000F000F
    return even | odd << 8


class PTQ1_0(QuantFormat):
    """1 word of digits to base 3; scales: 3 words of two bits per column for all 4 records, d."""

    name, block_size, block_bytes = "PTQ1_0", 128, 28
    word_bytes, scale_bytes, bound, offset = 64, 224, 2, 1

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(4):
            numbers = 0
            for i in range(N_BASE_3):
                numbers = 3 * numbers + group(source, 8 * record + i)
            write_u32(encode(numbers), words + 64 * record + 4 * lane)
        for i in range(N_CRUMBS):
            word = 0
            for record in range(4):
                word |= group(source, 8 * record + N_BASE_3 + i) << 2 * record
            write_u32(word, scales + 64 * i + 4 * lane)
        copy_halves(source + 26, 1, scales + 64 * N_CRUMBS, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d = load_f16(source + 26)
        for i in range(32):
            four = group(source, i)
            for j in range(4):
                store_f32(np.float32((four >> 8 * j & 3) - 1) * d, out + 16 * i + 4 * j)

    def bytes(self, record: Record) -> list[Value]:
        b, words, left = record.b, [], record.b.bitcast(record.word(0), WORD)
        for _ in range(N_BASE_3):
            words.append(b.bitcast(b.add(_is_above(b, left, 85), _is_above(b, left, 170)), INTS))
            left = b.add(left, b.add(left, left))
        shift = splat_int(b, b.shl(record.number, constant(record.number.type, 1)))
        for i in range(N_CRUMBS):
            word = load(b, record.scale_address(64 * i), INTS)
            words.append(mask(record, b.lshr(word, shift), CRUMBS))
        return words

    def scale(self, record: Record) -> list[Value]:
        return [record.half(64 * N_CRUMBS)]


def _is_above(b: Builder, numbers: Value, limit: int) -> Value:
    """Emit 1 for each byte above a limit, and 0 for the others; this takes less time than a comparison."""
    difference = call(b, "llvm.usub.sat.v64i8", WORD, [numbers, constant(WORD, limit)])
    return call(b, "llvm.umin.v64i8", WORD, [difference, constant(WORD, 1)])
