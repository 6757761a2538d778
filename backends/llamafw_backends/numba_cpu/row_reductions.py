"""Kernels of operators on rows whose numbers depend on the whole row, or on parts of it: norms, sums, choices.

They have the form that `row_kernels` explains.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.elementwise import rms_norm
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import row_op_at
from llamafw_backends.numba_cpu.simd import (
    add,
    exp,
    first_lanes,
    fma,
    load,
    load_f32,
    load_i64,
    max_lanes,
    maximum,
    mul,
    splat,
    store,
    store_f32,
    store_i64,
    sub,
    sum_lanes,
    zeros,
)


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
        weight = part % o.weight_parts * 4 * o.n
        whole = o.n // 16 * 64
        for i in range(0, whole, 64):
            value = mul(sub(load(x + i), mean), splat(factor))
            if o.weight != 0:
                value = mul(value, load(o.weight + weight + i))
            if o.bias != 0:
                value = add(value, load(o.bias + weight + i))
            store(value, y + i)

        average = max_lanes(mean)
        for i in range(whole, 4 * o.n, 4):
            number = (load_f32(x + i) - average) * factor
            if o.weight != 0:
                number = number * load_f32(o.weight + weight + i)
            if o.bias != 0:
                number = number + load_f32(o.bias + weight + i)
            store_f32(number, y + i)
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


def sparse_mixer(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the weights in a of the ``count`` choices b; x is twice the jitter; see `llamafw.graph.SparseMixer`."""
    o = row_op_at(op)
    for rank in range(o.count):
        best, total = load_f32(a + 4 * load_i64(b + 8 * rank)), np.float32(0.0)
        for i in range(o.n):
            x, competes = load_f32(a + 4 * i), True
            for before in range(rank):
                competes = competes and load_i64(b + 8 * before) != i
            if competes and best - x <= o.x * max(abs(x), best):
                total += max_lanes(exp(splat(x - best)))
        store_f32(np.float32(1.0) / total, out + 4 * rank)
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


def rows_of_pairs(plan: int, op: int, a: int, b: int, out: int, row: int, n: int, first: int) -> int:
    """Write the pairs a; pairs are rows of ``table``, in the order of `experts.sort`."""
    o = row_op_at(op)
    for part in range(o.n_parts):
        pair = o.table + load_i64(a + 8 * part) * o.a_step
        for i in range(0, 4 * o.n, 4):
            store_f32(load_f32(pair + i), out + part * o.out_step + i)
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
