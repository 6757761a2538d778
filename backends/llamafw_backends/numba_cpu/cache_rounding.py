"""Round float32 numbers to the types of the KV cache, in the layout that they have in files.

Each function is compiled by Numba and reads ``x``, the address of 16 or 32 float32. Numbers are rounded as ggml does it
(``quantize_row_…_ref``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import BYTES, FLOATS, I64, INTS, Builder, Value, constant
from llamafw_backends.numba_cpu.formats.iq4_nl import NUMBERS
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import (
    absolute,
    add,
    f32,
    floats,
    i64,
    ints,
    load,
    load_f32,
    max_lanes,
    maximum,
    minimum,
    mul,
    operation,
    read_u8,
    splat,
    store,
    store_bf16,
    store_bytes,
    store_f16,
    store_half,
    sub,
    void,
    write_u8,
    write_u32,
)


def _smallest(b: Builder, x: Value) -> Value:
    return emit.reduce(b, x, lambda u, v: b.select(b.fcmp_ordered("<", u, v), u, v))


def _round_away(b: Builder, x: Value) -> Value:
    """Emit the nearest integers; ties are rounded away from zero."""
    return b.fptosi(emit.call(b, "llvm.round.v16f32", FLOATS, [x]), INTS)


def _floor_to(b: Builder, x: Value, largest: Value) -> Value:
    """Emit the integers below positive numbers, at most ``largest``."""
    whole, limit = b.fptosi(x, INTS), emit.splat(b, b.trunc(largest, emit.I32))
    return b.select(b.icmp_unsigned("<", whole, limit), whole, limit)  # NaN has become a large unsigned number


def _store_nibbles(b: Builder, low: Value, high: Value, where: Value) -> None:
    nibbles = b.or_(b.and_(low, constant(INTS, 15)), b.shl(high, constant(INTS, 4)))
    emit.store(b, b.trunc(nibbles, BYTES), where)


def _fifth_bits(b: Builder, low: Value, high: Value) -> Value:
    """Emit bit 4 of 16 and 16 numbers, as an int64."""
    masks = [b.zext(b.bitcast(_has_bit(b, x), ir.IntType(16)), I64) for x in (low, high)]
    return b.or_(masks[0], b.shl(masks[1], constant(I64, 16)))


def _has_bit(b: Builder, x: Value) -> Value:
    return b.icmp_unsigned("!=", b.and_(x, constant(INTS, 16)), constant(INTS, 0))


min_lanes = operation(f32, (floats,), _smallest)
round_away = operation(ints, (floats,), _round_away)
floor_to = operation(ints, (floats, i64), _floor_to)
store_nibbles = operation(void, (ints, ints, i64), _store_nibbles)
fifth_bits = operation(i64, (ints, ints), _fifth_bits)


@jit
def _inverse(d: Any) -> Any:
    return np.float32(1.0) / d if d != np.float32(0.0) else np.float32(0.0)


@jit
def _farthest(x: int) -> Any:
    """Return the number farthest from zero, the first of several."""
    farthest = np.float32(0.0)
    for i in range(0, 128, 4):
        number = load_f32(x + i)
        if abs(number) > abs(farthest):
            farthest = number
    return farthest


@jit
def _range(x: int) -> tuple[float, float]:
    """Return the smallest and the largest number."""
    first, second = load(x), load(x + 64)
    return min_lanes(minimum(first, second)), max_lanes(maximum(first, second))


def to_f32(x: int, out: int) -> None:
    """Copy 16 numbers."""
    store(load(x), out)


def to_f16(x: int, out: int) -> None:
    """Round 16 numbers to float16."""
    store_half(load(x), out)


def to_bf16(x: int, out: int) -> None:
    """Round 16 numbers to bfloat16."""
    store_bf16(load(x), out)


def to_q8_0(x: int, out: int) -> None:
    """Round 32 numbers to a block of Q8_0."""
    first, second = load(x), load(x + 64)
    d = max_lanes(maximum(absolute(first), absolute(second))) / np.float32(127.0)
    inverse = splat(_inverse(d))
    store_f16(d, out)
    store_bytes(round_away(mul(first, inverse)), out + 2)
    store_bytes(round_away(mul(second, inverse)), out + 18)


def to_q4_0(x: int, out: int) -> None:
    """Round 32 numbers to a block of Q4_0."""
    d = _farthest(x) / np.float32(-8.0)
    inverse, half = splat(_inverse(d)), splat(np.float32(8.5))
    store_f16(d, out)
    first, second = floor_to(add(mul(load(x), inverse), half), 15), floor_to(add(mul(load(x + 64), inverse), half), 15)
    store_nibbles(first, second, out + 2)


def to_q4_1(x: int, out: int) -> None:
    """Round 32 numbers to a block of Q4_1."""
    low, high = _range(x)
    d = (high - low) / np.float32(15.0)
    start, inverse, half = splat(low), splat(_inverse(d)), splat(np.float32(0.5))
    store_f16(d, out)
    store_f16(low, out + 2)
    first = floor_to(add(mul(sub(load(x), start), inverse), half), 15)
    second = floor_to(add(mul(sub(load(x + 64), start), inverse), half), 15)
    store_nibbles(first, second, out + 4)


def to_q5_0(x: int, out: int) -> None:
    """Round 32 numbers to a block of Q5_0."""
    d = _farthest(x) / np.float32(-16.0)
    inverse, half = splat(_inverse(d)), splat(np.float32(16.5))
    store_f16(d, out)
    first, second = floor_to(add(mul(load(x), inverse), half), 31), floor_to(add(mul(load(x + 64), inverse), half), 31)
    write_u32(fifth_bits(first, second), out + 2)
    store_nibbles(first, second, out + 6)


def to_q5_1(x: int, out: int) -> None:
    """Round 32 numbers to a block of Q5_1."""
    low, high = _range(x)
    d = (high - low) / np.float32(31.0)
    start, inverse, half = splat(low), splat(_inverse(d)), splat(np.float32(0.5))
    store_f16(d, out)
    store_f16(low, out + 2)
    first = floor_to(add(mul(sub(load(x), start), inverse), half), 31)
    second = floor_to(add(mul(sub(load(x + 64), start), inverse), half), 31)
    write_u32(fifth_bits(first, second), out + 4)
    store_nibbles(first, second, out + 8)


_NUMBERS = np.array(NUMBERS, np.float32)


@jit
def _nearest(x: float) -> int:
    """Return the index of the nearest number of IQ4_NL; the upper one of a tie."""
    index = 0
    for i in range(15):
        index += int(x - _NUMBERS[i] >= _NUMBERS[i + 1] - x)
    return index


def to_iq4_nl(x: int, out: int) -> None:
    """Round 32 numbers to a block of IQ4_NL.

    The scale minimises the squared error, weighted by the squares of the numbers, for the indices that belong to the
    scale with which the farthest number is exact.
    """
    farthest = _farthest(x)
    d = farthest / _NUMBERS[0] if abs(farthest) >= np.float32(1e-15) else np.float32(0.0)
    inverse, products, squares = _inverse(d), np.float32(0.0), np.float32(0.0)
    for i in range(32):
        number = load_f32(x + 4 * i)
        index = _nearest(inverse * number)
        q, weight = _NUMBERS[index], number * number
        products += weight * q * number
        squares += weight * q * q
        nibble = read_u8(out + 2 + i % 16) if i >= 16 else 0
        write_u8(nibble | index << 4 if i >= 16 else index, out + 2 + i % 16)
    store_f16(products / squares if squares > np.float32(0.0) else np.float32(0.0), out)
