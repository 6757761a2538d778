"""Kernels of operators that compute one row from others, one token at a time.

Each is a function ``kernel(plan, op, a, b, out, row, n, first) -> 0``. ``op`` is the address of a ROW_OP record, ``a``,
``b`` and ``out`` are those of the operands' and the result's rows, and ``row`` is the number of the row. Elementwise
kernels compute the ``n`` numbers from column ``first`` on. They write whole vectors: rows of buffers end at a multiple
of 64 bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.elementwise import apply_rope, store_activations, token_group
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import POSITIONS, TYPES, plan_at, row_op_at
from llamafw_backends.numba_cpu.simd import (
    add,
    div,
    exp,
    fma,
    load,
    load_f32,
    load_i64,
    maximum,
    minimum,
    mul,
    splat,
    store,
    store_f32,
    sub,
    swap_pairs,
    zeros,
)
from llamafw_backends.numba_cpu.token_embedding import embed

FUNCTIONS = {
    name: number
    for number, name in enumerate(
        ("silu", "gelu_tanh", "gelu", "sigmoid", "relu", "relu_squared", "tanh", "quick_gelu", "exp", "softplus", "elu")
    )
}
"""Numbers of the activation functions; `llamafw.graph.rows.FUNCTIONS` has their formulas."""
_SILU, _GELU_TANH, _GELU, _SIGMOID, _RELU, _RELU_SQUARED, _TANH, _QUICK_GELU, _EXP, _SOFTPLUS, _ELU = FUNCTIONS.values()


@jit
def token_index(p: Any, op: Any, row: int) -> int:
    """Return the index in the batch of the token that a row belongs to."""
    if op.stage == 0:
        return p.first + row
    return load_i64(p.outputs + 8 * (p.first_output + row))


# --- elementwise ------------------------------------------------------------------------------------


@jit
def _sigmoid(x: Any) -> Any:
    one = splat(np.float32(1.0))
    return div(one, add(one, exp(sub(zeros(), x))))


@jit
def tanh(x: Any) -> Any:
    """Return 1 − 2 / (e²ˣ + 1)."""
    one, two = splat(np.float32(1.0)), splat(np.float32(2.0))
    return sub(one, div(two, add(exp(mul(two, x)), one)))


@jit
def _erf(x: Any) -> Any:
    """Return erf(x), with an absolute error below 2e-7 (Abramowitz and Stegun, 7.1.26)."""
    one = splat(np.float32(1.0))
    size = maximum(x, sub(zeros(), x))
    t = div(one, fma(splat(np.float32(0.3275911)), size, one))
    y = splat(np.float32(1.061405429))
    y = fma(y, t, splat(np.float32(-1.453152027)))
    y = fma(y, t, splat(np.float32(1.421413741)))
    y = fma(y, t, splat(np.float32(-0.284496736)))
    y = mul(fma(y, t, splat(np.float32(0.254829592))), t)
    positive = sub(one, mul(y, exp(sub(zeros(), mul(size, size)))))
    return mul(positive, div(x, maximum(size, splat(np.float32(1e-30)))))


@jit
def activate(function: int, x: Any) -> Any:
    """Return an activation function of 16 numbers."""
    if function == _SILU:
        return mul(x, _sigmoid(x))
    half = splat(np.float32(0.5))
    if function == _GELU_TANH:
        inner = mul(splat(np.float32(0.7978845608)), fma(mul(mul(x, x), x), splat(np.float32(0.044715)), x))
        return mul(mul(half, x), add(splat(np.float32(1.0)), tanh(inner)))
    if function == _GELU:
        return mul(mul(half, x), add(splat(np.float32(1.0)), _erf(mul(x, splat(np.float32(0.7071067812))))))
    if function == _SIGMOID:
        return _sigmoid(x)
    if function == _RELU:
        return maximum(x, zeros())
    if function == _RELU_SQUARED:
        positive = maximum(x, zeros())
        return mul(positive, positive)
    if function == _TANH:
        return tanh(x)
    if function == _QUICK_GELU:
        return mul(x, _sigmoid(mul(splat(np.float32(1.702)), x)))
    if function == _ELU:
        return add(maximum(x, zeros()), sub(exp(minimum(x, zeros())), splat(np.float32(1.0))))
    return exp(x)


def activation(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write f(a)."""
    function = row_op_at(op).function
    if function == _SOFTPLUS:
        for i in range(0, 4 * n, 4):
            x = np.float64(load_f32(a + i))
            store_f32(np.float32(max(x, 0.0) + math.log1p(math.exp(-abs(x)))), out + i)
        return 0
    for i in range(0, 4 * n, 64):
        store(activate(function, load(a + i)), out + i)
    return 0


def gated(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write f(a) · b."""
    function = row_op_at(op).function
    for i in range(0, 4 * n, 64):
        store(mul(activate(function, load(a + i)), load(b + i)), out + i)
    return 0


def add_rows(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a + b."""
    for i in range(0, 4 * n, 64):
        store(add(load(a + i), load(b + i)), out + i)
    return 0


def add_parts(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the sum of the row's parts, added in order."""
    o = row_op_at(op)
    for i in range(0, 4 * n, 64):
        total = load(a + i)
        for part in range(1, o.n_parts):
            total = add(total, load(a + part * o.a_step + i))
        store(total, out + i)
    return 0


def multiply_rows(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a · b."""
    for i in range(0, 4 * n, 64):
        store(mul(load(a + i), load(b + i)), out + i)
    return 0


def scale_parts(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a · b, where b has one number for each of the row's parts."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        factor, start, whole = load_f32(b + part * o.b_step), part * o.a_step, o.n // 16 * 64
        for i in range(start, start + whole, 64):
            store(mul(load(a + i), splat(factor)), out + i)
        for i in range(start + whole, start + 4 * o.n, 4):
            store_f32(load_f32(a + i) * factor, out + i)
    return 0


def scale(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a · factor."""
    factor = splat(row_op_at(op).x)
    for i in range(0, 4 * n, 64):
        store(mul(load(a + i), factor), out + i)
    return 0


def clamp(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a, limited to x … y."""
    o = row_op_at(op)
    low, high = splat(o.x), splat(o.y)
    for i in range(0, 4 * n, 64):
        store(minimum(maximum(load(a + i), low), high), out + i)
    return 0


def add_weight(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a + w; the weight has one number per column, and repeats for the parts of a row."""
    o = row_op_at(op)
    if o.n_parts == 1:
        for i in range(0, 4 * n, 64):
            store(add(load(a + i), load(o.weight + 4 * first + i)), out + i)
        return 0
    for i in range(n):
        store_f32(load_f32(a + 4 * i) + load_f32(o.weight + 4 * (i % o.n)), out + 4 * i)
    return 0


def multiply_weight(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a · w; the weight has one number per column, and repeats for the parts of a row."""
    o = row_op_at(op)
    if o.n_parts == 1:
        for i in range(0, 4 * n, 64):
            store(mul(load(a + i), load(o.weight + 4 * first + i)), out + i)
        return 0
    for i in range(n):
        store_f32(load_f32(a + 4 * i) * load_f32(o.weight + 4 * (i % o.n)), out + 4 * i)
    return 0


# --- places -----------------------------------------------------------------------------------------


def copy_parts(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Copy ``n`` numbers of each part of a row; part i is read from part ``i / repeat`` or ``i mod tile`` of a."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        source = a + part // o.repeat % o.tile * o.a_step
        target = out + part * o.out_step
        whole = o.n // 16 * 64
        for i in range(0, whole, 64):
            store(load(source + i), target + i)
        for i in range(whole, 4 * o.n, 4):
            store_f32(load_f32(source + i), target + i)
    return 0


def rotate(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Rotate a part of each head in place by the token's position: pairs (i, i + n/2)."""
    p, o = plan_at(plan), row_op_at(op)
    table = o.table + load_i64(p.positions + 8 * token_index(p, o, row)) * 4 * o.n
    for part in range(o.n_parts):
        apply_rope(out + part * o.out_step, table, o.n)
    return 0


def rotate_interleaved(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Rotate a part of each head in place by the token's position: pairs (0, 1), (2, 3) …

    The table has, for each position, the cosine of each number's pair, then the sine, negative for the first of a pair.
    """
    p, o = plan_at(plan), row_op_at(op)
    table = o.table + load_i64(p.positions + 8 * token_index(p, o, row)) * 8 * o.n
    for part in range(o.n_parts):
        x, i = out + part * o.out_step, 0
        while i + 64 <= 4 * o.n:
            v = load(x + i)
            store(add(mul(v, load(table + i)), mul(swap_pairs(v), load(table + 4 * o.n + i))), x + i)
            i += 64
        while i < 4 * o.n:
            e, f = load_f32(x + i), load_f32(x + i + 4)
            c, s = load_f32(table + i), load_f32(table + 4 * o.n + i + 4)
            store_f32(e * c - f * s, x + i)
            store_f32(f * c + e * s, x + i + 4)
            i += 8
    return 0


def look_up(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the embedding of the row's token, position or type."""
    p, o = plan_at(plan), row_op_at(op)
    index = token_index(p, o, row)
    ids = p.tokens
    if o.ids == POSITIONS:
        ids = p.positions
    elif o.ids == TYPES:
        ids = p.types
    embed(o, load_i64(ids + 8 * index), index, out)
    return 0


def copy_scales(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the numbers that the batch provides for the row's token."""
    p, o = plan_at(plan), row_op_at(op)
    source = p.scales + token_index(p, o, row) * p.scales_stride
    for i in range(0, 4 * o.n, 4):
        store_f32(load_f32(source + i), out + i)
    return 0


def copy_hidden(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the hidden state that the batch provides for the row's token."""
    p, o = plan_at(plan), row_op_at(op)
    source = p.given + token_index(p, o, row) * p.given_stride
    for i in range(0, 4 * o.n, 4):
        store_f32(load_f32(source + i), out + i)
    return 0


def keep_row(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Copy a row, also to where the batch returns the rows of all tokens."""
    p, o = plan_at(plan), row_op_at(op)
    kept = p.kept + token_index(p, o, row) * p.kept_stride
    for i in range(0, 4 * o.n, 4):
        x = load_f32(a + i)
        store_f32(x, out + i)
        store_f32(x, kept + i)
    return 0


def activations(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Store a row as the activations of matrix products: ``n_parts`` vectors of ``n`` numbers.

    ``out`` and ``b`` are the addresses of the records and of the floats; see `elementwise.token_group`.
    """
    p, o = plan_at(plan), row_op_at(op)
    n_rows = p.n_tokens if o.stage == 0 else p.n_outputs
    start, width = token_group(p.widths, n_rows, row)
    for part in range(o.n_parts):
        store_activations(
            a + part * o.a_step,
            0,
            o.n,
            o.n,
            row,
            start,
            width,
            o.layouts,
            out + part * n_rows * o.out_step,
            b + part * n_rows * o.b_step,
        )
    return 0
