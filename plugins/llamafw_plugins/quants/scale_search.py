"""Search the scales with which blocks of weights are rounded with the smallest error, as compiled kernels.

A kernel computes many blocks at once, one per lane: position by position, so that loops over lanes are vectorised and
every sum has the same order on every machine. This module is imported when the first tensor is rounded, because it
needs numba. Independent of files and plugins.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

LANES = 128  # blocks that are computed at once; their weights fit into the first-level cache
N_REFINED = 4
"""How often a scale and a minimum are improved by rounding with them and computing them again."""
ZERO, ONE, SMALL = np.float32(0), np.float32(1), np.float32(1e-5)
_floats = types.float32[::1]
_rows = types.Array(types.float32, 2, "C", readonly=True)  # files may be read-only
_codes = types.uint8[:, ::1]


def compiled(signature: Any) -> Any:
    """Compile a function for a signature, and cache it if a folder for the cache is writable."""

    def compile_function(function: Any) -> Any:
        options = {"nogil": True, "error_model": "numpy"}
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache is writable
            return numba.njit(signature, **options)(function)

    return compile_function


@numba.njit(nogil=True, error_model="numpy")
def transposed(blocks, first, out):
    """Copy the blocks from ``first`` on to the lanes of ``out``, ``(size, LANES)``; lanes without a block get zeros."""
    size = blocks.shape[1]
    n = min(LANES, len(blocks) - first)
    for lane in range(n):
        for i in range(size):
            out[i, lane] = blocks[first + lane, i]
    for lane in range(n, LANES):
        for i in range(size):
            out[i, lane] = ZERO


@compiled(types.void(_rows, _rows, types.int64, types.float32, types.float32, types.int64, _floats, _floats))
def search_scale_and_minimum(blocks, factors, largest, first, step, n_steps, scales, minima):
    """Find ``scale`` and ``minimum`` for each block: its weights become ``scale · q − minimum``, ``0 ≤ q ≤ largest``.

    They minimise the squared error for the best of several choices of q. These are the nearest numbers if the range
    from the best minimum so far is divided into ``largest + first + i · step`` parts, for each ``i < n_steps``; and
    then `N_REFINED` times the nearest numbers for the best scale and minimum so far. Neither is negative.

    Parameters
    ----------
    blocks : (n_blocks, size) float32
        The weights.
    factors : (n_blocks, size) float32
        Factors on the squared errors, not negative.
    largest : int
        The largest q.
    first, step : float
        Where the choices start, and how far they are apart.
    n_steps : int
        Number of choices.
    scales, minima : (n_blocks,) float32
        Receive the results.
    """
    size, top = blocks.shape[1], np.float32(largest)
    x, w = np.empty((size, LANES), np.float32), np.empty((size, LANES), np.float32)
    low, span, inverse = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    base = np.empty(LANES, np.float32)
    sum_w, sum_wx = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    sum_wq, sum_wqq, sum_wqx = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    best, scale, minimum = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)

    for start in range(0, len(blocks), LANES):
        transposed(blocks, start, x)
        transposed(factors, start, w)
        low[:], span[:], sum_w[:], sum_wx[:] = ZERO, x[0], ZERO, ZERO
        for i in range(size):
            for j in range(LANES):
                low[j] = min(low[j], x[i, j])
                span[j] = max(span[j], x[i, j])
                sum_w[j] += w[i, j]
                sum_wx[j] += w[i, j] * x[i, j]
        best[:], scale[:] = np.float32(np.inf), ZERO
        for j in range(LANES):
            minimum[j] = -low[j]
            span[j] = span[j] - low[j]

        for number in range(n_steps + N_REFINED):
            parts = top + first + step * np.float32(number)
            sum_wq[:], sum_wqq[:], sum_wqx[:] = ZERO, ZERO, ZERO
            for j in range(LANES):
                is_refined = (number >= n_steps) & (scale[j] > ZERO)
                base[j] = -minimum[j] if is_refined else low[j]
                inverse[j] = parts / span[j] if span[j] > ZERO else ZERO
                inverse[j] = ONE / scale[j] if is_refined else inverse[j]
            for i in range(size):
                for j in range(LANES):
                    q = np.rint(inverse[j] * (x[i, j] - base[j]))
                    q = min(max(q, ZERO), top)
                    wq = w[i, j] * q
                    sum_wq[j] += wq
                    sum_wqq[j] += wq * q
                    sum_wqx[j] += wq * x[i, j]
            for j in range(LANES):
                determinant = sum_w[j] * sum_wqq[j] - sum_wq[j] * sum_wq[j]
                s = (sum_w[j] * sum_wqx[j] - sum_wx[j] * sum_wq[j]) / determinant
                m = (sum_wq[j] * sum_wqx[j] - sum_wqq[j] * sum_wx[j]) / determinant
                # without a minimum if it would be negative
                s = sum_wqx[j] / sum_wqq[j] if m < ZERO else s
                m = ZERO if m < ZERO else m
                # as the weights were rounded, if one of them matters so much more that nothing else determines it
                is_unsure = not determinant > SMALL * (sum_w[j] * sum_wqq[j])
                s = ONE / inverse[j] if is_unsure & (inverse[j] > ZERO) else s
                m = -base[j] if is_unsure else m
                # without the sum of w · x², which is the same for all choices
                error = s * (s * sum_wqq[j] - sum_wqx[j] - sum_wqx[j] - (m + m) * sum_wq[j])
                error += m * (m * sum_w[j] + sum_wx[j] + sum_wx[j])
                is_better = (s > ZERO) & (error < best[j])  # false for NaN
                best[j] = error if is_better else best[j]
                scale[j] = s if is_better else scale[j]
                minimum[j] = m if is_better else minimum[j]
                span[j] = span[j] + low[j] + m if is_better else span[j]
                low[j] = -m if is_better else low[j]

        n = min(LANES, len(blocks) - start)
        scales[start : start + n] = scale[:n]
        minima[start : start + n] = minimum[:n]


IQ4_NL = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32)
"""The numbers that the codes of IQ4_NL stand for."""
_STEPS = np.diff(IQ4_NL)
_MIDDLES = IQ4_NL[:-1] + _STEPS / 2


@numba.njit(nogil=True, error_model="numpy")
def _nearest(of_iq4_nl, y, bottom, top):
    """Return the nearest number in `IQ4_NL`, or the nearest integer from ``bottom`` to ``top``."""
    if not of_iq4_nl:
        return min(max(np.rint(y), bottom), top)
    q = bottom
    for k in range(15):
        q += _STEPS[k] if y > _MIDDLES[k] else ZERO
    return q


@numba.njit(nogil=True, error_model="numpy")
def _search(of_iq4_nl, blocks, factors, bottom, top, step, n_steps, scales):
    """Find ``scale`` for each block as `search_scale` does.

    The numbers q are those in `IQ4_NL`, or the integers from ``bottom`` to ``top``.
    """
    size = blocks.shape[1]
    x, w = np.empty((size, LANES), np.float32), np.empty((size, LANES), np.float32)
    farthest, inverse = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    sum_wqq, sum_wqx = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    best, scale = np.empty(LANES, np.float32), np.empty(LANES, np.float32)

    for start in range(0, len(blocks), LANES):
        transposed(blocks, start, x)
        transposed(factors, start, w)
        farthest[:], best[:], scale[:] = ZERO, ZERO, ZERO
        for i in range(size):
            for j in range(LANES):
                farthest[j] = x[i, j] if abs(x[i, j]) > abs(farthest[j]) else farthest[j]

        for number in range(-n_steps, 3 * n_steps + 2):
            sum_wqq[:], sum_wqx[:] = ZERO, ZERO
            target = bottom + step * np.float32(number)
            if number > n_steps:
                target = top + step * np.float32(number - 2 * n_steps - 1)
            for j in range(LANES):
                inverse[j] = target / farthest[j] if farthest[j] != ZERO else ZERO
            for i in range(size):
                for j in range(LANES):
                    q = _nearest(of_iq4_nl, inverse[j] * x[i, j], bottom, top)
                    wq = w[i, j] * q
                    sum_wqq[j] += wq * q
                    sum_wqx[j] += wq * x[i, j]
            for j in range(LANES):
                s = sum_wqx[j] / sum_wqq[j]
                gain = s * sum_wqx[j]  # by which the squared error is smaller than that of a scale of 0
                is_better = gain > best[j]  # false for NaN
                best[j] = gain if is_better else best[j]
                scale[j] = s if is_better else scale[j]

        n = min(LANES, len(blocks) - start)
        scales[start : start + n] = scale[:n]


@compiled(types.void(_rows, _rows, types.int64, types.float32, types.int64, _floats))
def search_scale(blocks, factors, lowest, step, n_steps, scales):
    """Find ``scale`` for each block: its weights become ``scale · q``, ``lowest ≤ q < −lowest``.

    It minimises the squared error for the best of several choices of q: the nearest numbers if the weight farthest from
    zero becomes one end of their range plus ``i · step``, for both ends and each ``|i| ≤ n_steps``. The scale of a
    block of zeros is 0.

    Parameters
    ----------
    blocks : (n_blocks, size) float32
        The weights.
    factors : (n_blocks, size) float32
        Factors on the squared errors, not negative.
    lowest : int
        The smallest q.
    step : float
        How far the choices are apart.
    n_steps : int
        Number of choices on each side of an end.
    scales : (n_blocks,) float32
        Receives the results.
    """
    bottom, top = np.float32(lowest), np.float32(-lowest - 1)
    _search(False, blocks, factors, bottom, top, step, n_steps, scales)


@compiled(types.void(_rows, _rows, types.int64, _floats))
def search_iq4_nl_scale(blocks, factors, n_steps, scales):
    """Find ``scale`` for each block: its weights become ``scale`` times one of the numbers in `IQ4_NL`.

    Like `search_scale`, with a step of 1.
    """
    _search(True, blocks, factors, IQ4_NL[0], IQ4_NL[15], ONE, n_steps, scales)


@compiled(types.void(_rows, _floats, _codes))
def round_to_iq4_nl(blocks, scales, codes):
    """Write the index of the number in `IQ4_NL` that is nearest to each weight divided by its block's scale."""
    for block in range(len(blocks)):
        inverse = ONE / scales[block] if scales[block] != ZERO else ZERO
        for i in range(blocks.shape[1]):
            y, code = inverse * blocks[block, i], 0
            for k in range(15):
                code += 1 if y > _MIDDLES[k] else 0
            codes[block, i] = code


@compiled(types.void(_rows, _floats, _floats, types.int64, types.int64, _codes))
def round_blocks(blocks, scales, minima, lowest, n_codes, codes):
    """Write ``q − lowest`` for the integers q that are nearest to ``(weight + minimum) / scale``.

    There are ``n_codes`` integers, from ``lowest`` on; if a scale is 0, q is 0.
    """
    for block in range(len(blocks)):
        scale, minimum = scales[block], minima[block]
        if scale == ZERO:
            codes[block, :] = -lowest
            continue
        for i in range(blocks.shape[1]):
            q = np.rint((blocks[block, i] + minimum) / scale) - np.float32(lowest)
            codes[block, i] = np.uint8(min(max(q, ZERO), np.float32(n_codes - 1)))
