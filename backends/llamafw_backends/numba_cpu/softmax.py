"""What a query sees of a text, and the softmax of its scores.

The positions of a text are divided into *segments* of SEGMENT positions, from position 0 on. The softmax of a segment
is relative to its own maximum. Segments are joined afterwards, in order, so threads can share the positions of a head,
and the result does not depend on which thread computes what.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw import graph as g
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import CHUNKED, SLIDING, SYMMETRIC
from llamafw_backends.numba_cpu.row_kernels import tanh
from llamafw_backends.numba_cpu.simd import (
    add,
    exp,
    first_lanes,
    load,
    load_f32,
    max_lanes,
    maximum,
    mul,
    splat,
    store,
    store_f32,
    sub,
    sum_lanes,
    zeros,
)

MAX_DISTANCE = g.MAX_DISTANCE

SEGMENT = 512
"""Positions of a segment, a multiple of 16."""


@jit
def adjust_scores(r: Any, scores: int, head: int, position: int, first: int, end: int) -> None:
    """Apply softcap, ALiBi and bias to scores of positions ``first`` … ``end - 1``; ``first`` is a multiple of 16."""
    if r.softcap != np.float32(0.0):
        cap, inverse = splat(r.softcap), splat(np.float32(1.0) / r.softcap)
        for i in range(4 * first, 4 * end, 64):
            store(mul(cap, tanh(mul(inverse, load(scores + i)))), scores + i)
    if r.alibi != 0:
        slope = load_f32(r.alibi + 4 * head)
        for i in range(first, end):
            store_f32(load_f32(scores + 4 * i) - slope * np.float32(abs(position - i)), scores + 4 * i)
    if r.position_bias != 0:
        bias = r.position_bias + 4 * (head * (2 * MAX_DISTANCE + 1) + MAX_DISTANCE)
        for i in range(first, end):
            far = min(max(i - position, -MAX_DISTANCE), MAX_DISTANCE)
            store_f32(load_f32(scores + 4 * i) + load_f32(bias + 4 * far), scores + 4 * i)


@jit
def softmax(scores: int, start: int, first: int, n: int, result: int) -> None:
    """Replace the scores s of positions ``first`` … ``n - 1`` by exp(s − max).

    Write the maximum and the sum of the exponentials to ``result``: -3e38 and 0 if there is no position. The scores
    from ``start`` to ``first`` become 0. ``start`` is a multiple of 16.
    """
    lowest = splat(np.float32(-3e38))
    n_blocks = (n + 15) // 16

    greatest = lowest
    for i in range(start // 16, n_blocks):
        visible = first_lanes(n - 16 * i, load(scores + 64 * i), lowest)
        if 16 * i < first:
            visible = first_lanes(first - 16 * i, lowest, visible)
        greatest = maximum(visible, greatest)
    top = max_lanes(greatest)
    top_lanes = splat(top)

    total = zeros()
    for i in range(start // 16, n_blocks):
        e = first_lanes(n - 16 * i, exp(sub(load(scores + 64 * i), top_lanes)), zeros())
        if 16 * i < first:
            e = first_lanes(first - 16 * i, zeros(), e)
        total = add(total, e)
        store(e, scores + 64 * i)
    store_f32(top, result)
    store_f32(sum_lanes(total), result + 4)


@jit
def join_softmax(results: int, n: int, stride: int, sink: int) -> Any:
    """Replace the maximum of each of ``n`` results of `softmax` by the factor of its sums; return 1 / the whole sum.

    A factor is exp(maximum − the greatest of them). ``stride`` is the distance of results in bytes, and ``sink`` the
    address of one more score, or 0.
    """
    top = np.float32(-3e38)
    for i in range(n):
        top = max(top, load_f32(results + i * stride))
    if sink != 0:
        top = max(top, load_f32(sink))
    total = np.float32(0.0)
    for i in range(n):
        factor = _exp(load_f32(results + i * stride) - top)
        store_f32(factor, results + i * stride)
        total += factor * load_f32(results + i * stride + 4)
    if sink != 0:
        total += _exp(load_f32(sink) - top)
    return np.float32(1.0) / total


@jit
def _exp(x: float) -> float:
    return max_lanes(exp(splat(x)))


@jit
def first_visible(r: Any, position: int) -> int:
    """Return the first position that a query sees."""
    if r.window == 0:
        return 0
    if r.window_kind == CHUNKED:
        return position // r.window * r.window
    if r.window_kind == SYMMETRIC:
        return max(0, position - r.window // 2)
    return max(0, position - r.window + 1)


@jit
def end_of_visible(r: Any, position: int, end: int) -> int:
    """Return the position after the last one that a query sees, in a text of ``end`` positions."""
    if r.whole_text == 0:
        return position + 1
    if r.window == 0:
        return end
    if r.window_kind == CHUNKED:
        return min(end, position // r.window * r.window + r.window)
    if r.window_kind == SYMMETRIC:
        return min(end, position + r.window // 2 + 1)
    return end


def max_scores(window: int, n_ctx: int, window_kind: int = SLIDING) -> int:
    """Return how many positions the rows that are computed together see at most, in whole blocks; window 0: all."""
    if window == 0:
        return n_ctx
    if window_kind == SYMMETRIC:
        window += 1  # half of it on each side of the token
    return min(n_ctx, window // 16 * 16 + 64)


def max_segments(n_positions: int, n_ctx: int) -> int:
    """Return how many segments ``n_positions`` adjacent positions touch at most."""
    return min(-(-n_ctx // SEGMENT), n_positions // SEGMENT + 2)
