"""Kernels of operators that compute one row from others, one token at a time.

Each is a function ``kernel(plan, op, a, b, out, row, n, first) -> 0``: ``op`` is the address of a ROW_OP record, ``a``
and ``b`` are the addresses of the operands' rows, ``row`` is the row's number, and elementwise kernels compute the ``n``
numbers from column ``first`` on. They write whole vectors: rows of buffers end at a multiple of 64 bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.elementwise import apply_rope, rms_norm, store_activations, token_group
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import plan_at, row_op_at
from llamafw_backends.numba_cpu.simd import (
    add,
    div,
    exp,
    first_lanes,
    fma,
    load,
    load_f32,
    load_i64,
    max_lanes,
    maximum,
    minimum,
    mul,
    splat,
    store,
    store_f32,
    store_i64,
    sub,
    sum_lanes,
    swap_pairs,
    zeros,
)
from llamafw_backends.numba_cpu.token_embedding import embed

FUNCTIONS = {
    name: number
    for number, name in enumerate(
        ("silu", "gelu_tanh", "gelu", "sigmoid", "relu", "relu_squared", "tanh", "quick_gelu", "exp", "softplus")
    )
}
"""Numbers of the activation functions; `llamafw.graph.rows.FUNCTIONS` has their formulas."""
_SILU, _GELU_TANH, _GELU, _SIGMOID, _RELU, _RELU_SQUARED, _TANH, _QUICK_GELU, _EXP, _SOFTPLUS = FUNCTIONS.values()


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


# --- norms and reductions ---------------------------------------------------------------------------


@jit
def _weight_at(o: Any, part: int, i: int) -> Any:
    return load_f32(o.weight + part % o.weight_parts * 4 * o.n + 4 * i)


def normalise_rms(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the RMSNorm of each part of a row; x is eps."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        x, y = a + part * o.a_step, out + part * o.out_step
        if o.n % 16 == 0 and o.weight != 0:
            rms_norm(x, o.weight + part % o.weight_parts * 4 * o.n, o.n, o.x, y)
            continue
        squares = np.float32(0.0)
        for i in range(o.n):
            squares += load_f32(x + 4 * i) * load_f32(x + 4 * i)
        factor = np.float32(1.0) / np.float32(math.sqrt(squares / np.float32(o.n) + np.float32(o.x)))
        for i in range(o.n):
            value = load_f32(x + 4 * i) * factor
            store_f32(value if o.weight == 0 else value * _weight_at(o, part, i), y + 4 * i)
    return 0


def normalise_layer(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the LayerNorm of each part of a row; x is eps."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        x, y = a + part * o.a_step, out + part * o.out_step
        total = zeros()
        for i in range(0, o.n, 16):
            total = add(total, first_lanes(o.n - i, load(x + 4 * i), zeros()))
        mean = splat(sum_lanes(total) / np.float32(o.n))
        squares = zeros()
        for i in range(0, o.n, 16):
            centred = first_lanes(o.n - i, sub(load(x + 4 * i), mean), zeros())
            squares = fma(centred, centred, squares)
        variance = sum_lanes(squares) / np.float32(o.n)
        factor = np.float32(1.0) / np.float32(math.sqrt(variance + np.float32(o.x)))
        average = max_lanes(mean)
        for i in range(o.n):
            value = (load_f32(x + 4 * i) - average) * factor
            if o.weight != 0:
                value = value * _weight_at(o, part, i)
            store_f32(
                value if o.bias == 0 else value + load_f32(o.bias + part % o.weight_parts * 4 * o.n + 4 * i), y + 4 * i
            )
    return 0


def normalise_l2(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write each part of a row divided by its length; x is eps."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        x, y = a + part * o.a_step, out + part * o.out_step
        squares = zeros()
        for i in range(0, o.n, 16):
            v = first_lanes(o.n - i, load(x + 4 * i), zeros())
            squares = fma(v, v, squares)
        factor = np.float32(1.0) / np.float32(math.sqrt(sum_lanes(squares) + np.float32(o.x)))
        whole = o.n // 16 * 16
        for i in range(0, 4 * whole, 64):
            store(mul(load(x + i), splat(factor)), y + i)
        for i in range(whole, o.n):
            store_f32(load_f32(x + 4 * i) * factor, y + 4 * i)
    return 0


def softmax(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the softmax of each part of a row."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        x, y = a + part * o.a_step, out + part * o.out_step
        lowest = splat(np.float32(-3e38))
        greatest = lowest
        for i in range(0, o.n, 16):
            greatest = maximum(first_lanes(o.n - i, load(x + 4 * i), lowest), greatest)
        top = splat(max_lanes(greatest))
        total = zeros()
        for i in range(0, o.n, 16):
            total = add(total, first_lanes(o.n - i, exp(sub(load(x + 4 * i), top)), zeros()))
        divisor = sum_lanes(total)
        for i in range(o.n):
            e = max_lanes(exp(splat(load_f32(x + 4 * i) - max_lanes(top))))
            store_f32(np.float32(0.0) if load_f32(x + 4 * i) < np.float32(-1e38) else e / divisor, y + 4 * i)
    return 0


def normalise_sum(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write each part of a row divided by its sum, or by x if the sum is smaller."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        x, y = a + part * o.a_step, out + part * o.out_step
        total = np.float32(0.0)
        for i in range(o.n):
            total += load_f32(x + 4 * i)
        divisor = max(total, np.float32(o.x))
        for i in range(o.n):
            store_f32(load_f32(x + 4 * i) / divisor, y + 4 * i)
    return 0


# --- choices ----------------------------------------------------------------------------------------


def top_k(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the indices of the ``count`` largest numbers, int64; of equal numbers the lower index comes first."""
    o = row_op_at(op)
    found = 0  # the indices found so far, sorted
    for i in range(o.n):
        x = load_f32(a + 4 * i)
        if found == o.count and not x > load_f32(a + 4 * load_i64(out + 8 * (found - 1))):
            continue
        place = min(found, o.count - 1)
        while place > 0 and x > load_f32(a + 4 * load_i64(out + 8 * (place - 1))):
            store_i64(load_i64(out + 8 * (place - 1)), out + 8 * place)
            place -= 1
        store_i64(i, out + 8 * place)
        found = min(found + 1, o.count)
    return 0


def mask_groups(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write a, with −inf outside the ``count`` best of the row's parts; see `llamafw.graph.GroupMask`.

    A part's score is the sum of its ``repeat`` largest numbers, one or two; scores are written behind the row.
    """
    o = row_op_at(op)
    scores = out + 4 * o.n * o.n_parts
    for part in range(o.n_parts):
        largest, second = np.float32(-np.inf), np.float32(-np.inf)
        for i in range(o.n):
            x = load_f32(a + 4 * (part * o.n + i))
            if x > largest:
                largest, second = x, largest
            elif x > second:
                second = x
        store_f32(largest if o.repeat == 1 else largest + second, scores + 4 * part)
    for part in range(o.n_parts):
        score, rank = load_f32(scores + 4 * part), 0
        for other in range(o.n_parts):
            s = load_f32(scores + 4 * other)
            if s > score or (s == score and other < part):
                rank += 1
        for i in range(part * o.n, (part + 1) * o.n):
            store_f32(load_f32(a + 4 * i) if rank < o.count else np.float32(-np.inf), out + 4 * i)
    return 0


def gather(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the numbers of a at the indices b."""
    for i in range(row_op_at(op).n):
        store_f32(load_f32(a + 4 * load_i64(b + 8 * i)), out + 4 * i)
    return 0


def weighted_sum(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write Σ b[i] · part i of a."""
    o = row_op_at(op)
    for i in range(0, 4 * o.n, 64):
        total = zeros()
        for part in range(o.n_parts):
            total = fma(splat(load_f32(b + 4 * part)), load(a + part * o.a_step + i), total)
        store(total, out + i)
    return 0


def weighted_sum_of_pairs(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write Σ b[i] · the pair a[i]; pairs are rows of ``table``, in the order of `experts.sort`."""
    o = row_op_at(op)
    for i in range(0, 4 * o.n, 64):
        total = zeros()
        for part in range(o.n_parts):
            pair = o.table + load_i64(a + 8 * part) * o.a_step
            total = fma(splat(load_f32(b + 4 * part)), load(pair + i), total)
        store(total, out + i)
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
    """Write the embedding of the row's token or position."""
    p, o = plan_at(plan), row_op_at(op)
    index = token_index(p, o, row)
    embed(o, load_i64((p.positions if o.from_positions else p.tokens) + 8 * index), index, out)
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
