"""Operations between matrix products: norm, activation function, rotary positions, quantisation of activations."""

from __future__ import annotations

import math

import numpy as np

from llamafw_backends.numba_cpu.isa import (
    FIRST_SUM_OFFSET,
    HIGH_OFFSET,
    LOW_OFFSET,
    MAX_ACTIVATION,
    MAX_BYTE,
    NEG_HALF_SUMS_OFFSET,
    NEG_SUM_OFFSET,
    RECORD_BYTES,
    SCALE_OFFSET,
    SUM_OFFSET,
)
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.matmul import width_for
from llamafw_backends.numba_cpu.simd import (
    absolute,
    add,
    add_ints,
    div,
    exp,
    fma,
    high_part,
    load,
    load_f32,
    load_quad,
    low_part,
    max_lanes,
    maximum,
    mul,
    round_ints,
    splat,
    store,
    store_bf16_quad,
    store_bytes,
    store_f32,
    store_i32,
    store_quad,
    sub,
    sum_int_lanes,
    sum_lanes,
    zeros,
)
from llamafw_backends.numba_cpu.tiles import BF16_LAYOUT, F32_LAYOUT, FLOAT_COLUMNS, ONE_BYTE, Q8_LAYOUT


@jit
def rms_norm(x: int, weight: int, n: int, eps: float, out: int) -> None:
    """Write x / sqrt(mean(x²) + eps) · weight, n floats (RMSNorm: Zhang & Sennrich 2019)."""
    squares = zeros()
    for i in range(0, 4 * n, 64):
        v = load(x + i)
        squares = fma(v, v, squares)
    scale = splat(np.float32(1.0) / np.float32(math.sqrt(sum_lanes(squares) / np.float32(n) + np.float32(eps))))
    for i in range(0, 4 * n, 64):
        store(mul(mul(load(x + i), scale), load(weight + i)), out + i)


@jit
def silu_product(gate: int, up: int, n: int, out: int) -> None:
    """Write gate · sigmoid(gate) · up, n floats.

    ``out`` may be ``gate``.
    """
    for i in range(0, 4 * n, 64):
        g = load(gate + i)
        sigmoid = div(splat(np.float32(1.0)), add(splat(np.float32(1.0)), exp(sub(zeros(), g))))
        store(mul(mul(g, sigmoid), load(up + i)), out + i)


@jit
def apply_rope(x: int, table: int, n_rot: int) -> None:
    """Rotate the pairs (i, i + n_rot/2) of one head by the angles whose cosines and sines are in ``table`` (RoPE)."""
    half = 2 * n_rot  # n_rot / 2 floats in bytes
    i = 0
    while i + 64 <= half:
        a, b, c, s = load(x + i), load(x + half + i), load(table + i), load(table + half + i)
        store(sub(mul(a, c), mul(b, s)), x + i)
        store(add(mul(a, s), mul(b, c)), x + half + i)
        i += 64
    while i < half:
        e, f, g, h = load_f32(x + i), load_f32(x + half + i), load_f32(table + i), load_f32(table + half + i)
        store_f32(e * g - f * h, x + i)
        store_f32(e * h + f * g, x + half + i)
        i += 4


@jit
def token_group(widths: int, n_tokens: int, token: int) -> tuple[int, int]:
    """Return the first token and the width of the group in which matrix kernels multiply ``token``.

    Activations are stored group by group, in a group block by block, and in a block token by token.
    """
    width = width_for(widths, n_tokens)
    first = n_tokens // width * width
    if token < first:
        return token // width * width, width
    while True:
        width = width_for(widths, n_tokens - first)
        if token < first + width:
            return first, width
        first += width


@jit
def quantize(x: int, record: int, largest_number: int) -> None:
    """Quantise 32 floats into a record, which `isa` describes.

    ``largest_number`` is `isa.MAX_ACTIVATION`, or `isa.MAX_BYTE` for activations of 8 bits.
    """
    first, second, bound = load(x), load(x + 64), np.float32(largest_number)
    largest = max_lanes(maximum(absolute(first), absolute(second)))
    nonzero = largest > np.float32(1e-30)
    inverse = splat(bound / largest if nonzero else np.float32(0.0))
    scale = largest / bound if nonzero else np.float32(0.0)

    a, b = round_ints(mul(first, inverse)), round_ints(mul(second, inverse))
    high_a, high_b = a, b
    if largest_number > MAX_BYTE:
        high_a, high_b = high_part(a), high_part(b)
        store_bytes(low_part(a, high_a), record + LOW_OFFSET)
        store_bytes(low_part(b, high_b), record + LOW_OFFSET + 16)
    store_bytes(high_a, record + HIGH_OFFSET)
    store_bytes(high_b, record + HIGH_OFFSET + 16)

    total, first_total = np.int32(sum_int_lanes(add_ints(a, b))), np.int32(sum_int_lanes(a))
    store_f32(scale, record + SCALE_OFFSET)
    store_f32(scale * np.float32(total), record + SUM_OFFSET)
    store_i32(np.int32(-total), record + NEG_SUM_OFFSET)
    store_i32(np.int32(-first_total), record + NEG_HALF_SUMS_OFFSET)
    store_i32(np.int32(first_total - total), record + NEG_HALF_SUMS_OFFSET + 4)
    store_f32(scale * np.float32(first_total), record + FIRST_SUM_OFFSET)


@jit
def store_activations(
    x: int,
    first: int,
    last: int,
    n_columns: int,
    token: int,
    start: int,
    width: int,
    layouts: int,
    records: int,
    floats: int,
) -> None:
    """Store columns ``first`` … ``last - 1`` of a token as activations.

    Parameters
    ----------
    x : int
        Address of column ``first``, float32.
    first, last : int
        Multiples of 32.
    n_columns : int
        Length of a row.
    start, width : int
        The token's `token_group`.
    layouts : int
        Bits of `tiles.Q8_LAYOUT`, of `tiles.F32_LAYOUT` or `tiles.BF16_LAYOUT`, and `tiles.ONE_BYTE`.
    records, floats : int
        Addresses of the records, and of the floats in either layout.
    """
    if layouts & Q8_LAYOUT:
        base = records + start * (n_columns // 32) * RECORD_BYTES + (token - start) * RECORD_BYTES
        largest = MAX_BYTE if layouts & ONE_BYTE else MAX_ACTIVATION
        for block in range(first // 32, last // 32):
            quantize(x + 128 * (block - first // 32), base + block * width * RECORD_BYTES, largest)
    if layouts & F32_LAYOUT:
        size = 4 * FLOAT_COLUMNS
        base = floats + start * 4 * n_columns + (token - start) * size
        for block in range(first // FLOAT_COLUMNS, last // FLOAT_COLUMNS):
            store_quad(load_quad(x + size * (block - first // FLOAT_COLUMNS)), base + block * width * size)
    if layouts & BF16_LAYOUT:
        size = 2 * FLOAT_COLUMNS
        base = floats + start * 2 * n_columns + (token - start) * size
        for block in range(first // FLOAT_COLUMNS, last // FLOAT_COLUMNS):
            store_bf16_quad(load_quad(x + 2 * size * (block - first // FLOAT_COLUMNS)), base + block * width * size)
