"""The parts of compiled samplers: maxima, exponentials, sorting, and moving candidates to the front.

`kernels` has the samplers themselves. Imported with it, when the first sampler is created.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

# expf after Cephes: 2^i · e^r with |r| ≤ ln 2 / 2 and a polynomial in r; all float32, to be vectorised
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504088896341), np.float32(0.693359375), np.float32(-2.12194440e-4)
C0, C1, C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C3, C4, C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
LANES = 64  # values per step of a vectorised loop
HALF, ONE, ZERO = np.float32(0.5), np.float32(1), np.float32(0)
MIN_EXPONENT = np.float32(-87)  # e^x is taken as 0 below it


def inline(function: Any) -> Any:
    """Compile a function that kernels call."""
    return numba.njit(nogil=True, error_model="numpy")(function)


@inline
def max_of(logits):
    """Return the highest of logits without NaN."""
    n = len(logits)
    best = logits[0]
    if n >= 2 * LANES:  # lane by lane, which is vectorised
        lanes = logits[:LANES].copy()
        for start in range(LANES, n - LANES + 1, LANES):
            block = logits[start : start + LANES]
            for i in range(LANES):
                lanes[i] = block[i] if block[i] > lanes[i] else lanes[i]
        logits = logits[n - n % LANES :]
        for i in range(LANES):
            best = lanes[i] if lanes[i] > best else best

    for i in range(len(logits)):
        best = logits[i] if logits[i] > best else best
    return best


@numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def sum_float64(values):
    """Return the sum in float64, added in any order."""
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i])
    return total


@inline
def exp_weights(logits, max_logit):
    """Return exp(logit - max_logit) as float32, with 0 for results below 1e-38."""
    m = len(logits)
    weights = np.empty(m, np.float32)
    powers = np.empty(m, np.int32)
    for i in range(m):
        x = logits[i] - max_logit
        x = x if x > MIN_EXPONENT else MIN_EXPONENT
        whole = np.float32(np.floor(x * LOG2_E + HALF))
        r = x - whole * LN2_HIGH - whole * LN2_LOW
        p = ((((C0 * r + C1) * r + C2) * r + C3) * r + C4) * r + C5
        weights[i] = p * r * r + r + ONE
        powers[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)

    scales = powers.view(np.float32)
    for i in range(m):
        weights[i] = weights[i] * scales[i] if logits[i] - max_logit > MIN_EXPONENT else ZERO
    return weights


@inline
def argsort_descending(values):
    """Return the indices of all values in descending order, the lower index first among equal values.

    A radix sort of the floats' bits, 8 bits per pass.
    """
    n = len(values)
    keys, order = np.empty(n, np.uint32), np.arange(n)
    other_keys, other_order = np.empty(n, np.uint32), np.empty(n, np.int64)
    bits = keys.view(np.int32)
    floats = keys.view(np.float32)
    for i in range(n):
        floats[i] = values[i] if values[i] != ZERO else ZERO  # -0 equals 0
        if bits[i] >= 0:  # larger floats get smaller keys; the bits of negative floats have that order already
            bits[i] ^= np.int32(0x7FFFFFFF)

    for shift in range(0, 32, 8):
        starts = np.zeros(257, np.int64)
        for i in range(n):
            starts[1 + ((keys[i] >> shift) & 255)] += 1
        for i in range(256):
            starts[i + 1] += starts[i]
        for i in range(n):
            digit = (keys[i] >> shift) & 255
            at = starts[digit]
            starts[digit] += 1
            other_keys[at], other_order[at] = keys[i], order[i]
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    return order


@inline
def lower_bound(values, n):
    """Return a number that at least ``n`` values reach and not many more than ``n`` exceed."""
    group = min(len(values) // (4 * n), LANES)
    if group < 2:
        return np.float32(-np.inf)
    columns = len(values) // group
    column_max = values[:columns].copy()  # of a (group, columns) matrix; n of these maxima are n values
    for row in range(1, group):
        line = values[row * columns : (row + 1) * columns]
        for i in range(columns):
            column_max[i] = line[i] if line[i] > column_max[i] else column_max[i]
    return column_max[argsort_descending(column_max)[n - 1]]


@inline
def indices_of_largest(values, n):
    """Return the indices of the ``n`` largest values in descending order, the lower index first among equal values."""
    n = min(n, len(values))
    bound = lower_bound(values, n)
    indices, count, ties = np.empty(len(values), np.int64), 0, 0

    for start in range(0, len(values), LANES):
        block = values[start : start + LANES]
        hits = 0
        for i in range(len(block)):
            hits += block[i] >= bound
        if hits == 0:  # the usual case
            continue
        for i in range(len(block)):
            if block[i] > bound or (block[i] == bound and ties < n):
                ties += block[i] == bound
                indices[count] = start + i
                count += 1

    selected = np.empty(count, np.float32)
    for i in range(count):
        selected[i] = values[indices[i]]
    order = argsort_descending(selected)[:n]
    for i in range(len(order)):
        order[i] = indices[order[i]]
    return order


@inline
def nucleus(values, weights, target, min_keep, strict):
    """Return the indices of the largest values, in descending order, until their weights add up to ``target``.

    ``strict``: they must add up to more than the target. At least ``min_keep`` are returned, or all if there are fewer.
    """
    m = len(values)
    n = min(max(min_keep, 64), m)
    while True:  # a few values are usually enough, so the number grows only if necessary
        order = indices_of_largest(values, n)
        total = 0.0
        for i in range(len(order)):
            total += weights[order[i]]
            if total > target or (total == target and not strict):
                return order[: max(i + 1, min_keep)]
        if n == m:
            return order
        n = min(16 * n, m)


@inline
def keep_in_order(logits, ids, order):
    """Keep the candidates at the indices ``order``, in that order; return their number."""
    n = len(order)
    kept_logits, kept_ids = np.empty(n, np.float32), np.empty(n, np.int32)
    for i in range(n):
        kept_logits[i], kept_ids[i] = logits[order[i]], ids[order[i]]
    for i in range(n):
        logits[i], ids[i] = kept_logits[i], kept_ids[i]
    return n


@inline
def keep_at(logits, ids, indices):
    """Keep the candidates at some indices, in the order they have; return their number."""
    kept = np.zeros(len(logits), np.bool_)
    for i in range(len(indices)):
        kept[indices[i]] = True
    n = 0
    for i in range(len(logits)):
        if kept[i]:
            logits[n], ids[n] = logits[i], ids[i]
            n += 1
    return n


@inline
def divide_by_temperature(logits, max_logit, temperature):
    """Divide the differences from the maximum by T, so that no quotient overflows float32."""
    t = np.float32(temperature)
    for i in range(len(logits)):
        logits[i] = (logits[i] - max_logit) / t


@numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def entropy(weights, logits, max_logit, total):
    """Return the entropy in nats of probabilities ``weights / total``."""
    mean = 0.0
    for i in range(len(logits)):
        x = logits[i] - max_logit
        mean += np.float64(weights[i] * (x if x > MIN_EXPONENT else MIN_EXPONENT))  # below it, the weight is 0
    return math.log(total) - mean / total
