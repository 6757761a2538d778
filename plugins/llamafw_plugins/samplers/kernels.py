"""The samplers' computations as compiled kernels.

`llamafw.compile_sampler_kernel` describes a kernel's arguments; the samplers' docstrings have the formulas. This module
is imported when the first sampler is created, because it needs numba.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from llamafw import compile_sampler_kernel

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


# --- parts ------------------------------------------------------------------------------------------


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


# --- kernels ----------------------------------------------------------------------------------------


@compile_sampler_kernel
def top_k(logits, ids, ordered, options):
    """Keep the k highest logits; ``options`` has k."""
    k = int(options[0])
    if k >= len(logits):
        return len(logits)
    if ordered[0]:
        return k
    ordered[0] = 1
    return keep_in_order(logits, ids, indices_of_largest(logits, k))


@compile_sampler_kernel
def top_p(logits, ids, ordered, options):
    """Keep the likeliest candidates with probability p together; ``options`` has p and min_keep."""
    n, p, min_keep = len(logits), options[0], int(options[1])
    max_logit = logits[0] if ordered[0] else max_of(logits)
    if ordered[0]:
        weights = np.empty(n)
        for i in range(n):
            weights[i] = math.exp(np.float64(logits[i]) - max_logit)
        target, total = p * sum_float64(weights), 0.0
        for i in range(n):
            total += weights[i]
            if total >= target:
                return min(max(i + 1, min_keep), n)
        return n

    weights = exp_weights(logits, max_logit)
    order = nucleus(logits, weights, p * sum_float64(weights), min_keep, False)
    if len(order) < n:
        ordered[0] = 1
        keep_in_order(logits, ids, order)
    return len(order)


@compile_sampler_kernel
def min_p(logits, ids, ordered, options):
    """Keep the candidates at least p times as likely as the likeliest; ``options`` has ln p and min_keep."""
    n, min_keep = len(logits), min(int(options[1]), len(logits))
    limit = np.float64(logits[0] if ordered[0] else max_of(logits)) + options[0]
    if ordered[0]:
        while n > 1 and n > min_keep and logits[n - 1] < limit:
            n -= 1
        return n

    n_kept = 0
    for i in range(n):
        n_kept += logits[i] >= limit
    if n_kept < min_keep:
        return keep_at(logits, ids, indices_of_largest(logits, min_keep))
    if n_kept < n:
        at = 0
        for i in range(n):
            if logits[i] >= limit:
                logits[at], ids[at] = logits[i], ids[i]
                at += 1
    return n_kept


@compile_sampler_kernel
def typ_p(logits, ids, ordered, options):
    """Keep the most typical candidates with probability p together; ``options`` has p and min_keep."""
    n = len(logits)
    max_logit = logits[0] if ordered[0] else max_of(logits)
    weights = exp_weights(logits, max_logit)
    total = sum_float64(weights)

    # With shift = logit - max_logit: ln p = shift - ln total, so -ln p - H = mean shift - shift
    mean = np.float32(math.log(total) - entropy(weights, logits, max_logit, total))
    closeness = np.empty(n, np.float32)
    for i in range(n):
        closeness[i] = -abs(logits[i] - max_logit - mean)
    order = nucleus(closeness, weights, options[0] * total, int(options[1]), True)
    return keep_at(logits, ids, order) if len(order) < n else n


@compile_sampler_kernel
def tfs_z(logits, ids, ordered, options):
    """Keep the candidates before the tail; ``options`` has z and min_keep."""
    n, z, min_keep = len(logits), options[0], int(options[1])
    if n < 3:  # there is no second derivative
        return n

    order = np.arange(n) if ordered[0] else indices_of_largest(logits, n)
    weights = np.empty(n)
    for i in range(n):
        weights[i] = math.exp(np.float64(logits[order[i]]) - np.float64(logits[order[0]]))
    total_weight = sum_float64(weights)

    curvatures = np.empty(n - 2)
    for i in range(n - 2):
        curvatures[i] = abs((weights[i + 2] - weights[i + 1]) - (weights[i + 1] - weights[i])) / total_weight
    total, share = sum_float64(curvatures), 0.0
    for i in range(n - 2):
        share += curvatures[i] / total if total > 1e-12 else 1 / (n - 2)
        if share > z:
            ordered[0] = 1
            return keep_in_order(logits, ids, order[: min(max(i, min_keep), n)])
    return n


@compile_sampler_kernel
def temperature(logits, ids, ordered, options):
    """Divide the logits by T; ``options`` has T."""
    divide_by_temperature(logits, logits[0] if ordered[0] else max_of(logits), options[0])
    return len(logits)


@compile_sampler_kernel
def dynamic_temperature(logits, ids, ordered, options):
    """Divide the logits by T, which grows with entropy; ``options``: lowest T, highest T, exponent, minimum of T."""
    n = len(logits)
    if n < 2:
        return n
    max_logit = logits[0] if ordered[0] else max_of(logits)
    weights = exp_weights(logits, max_logit)

    share = entropy(weights, logits, max_logit, sum_float64(weights)) / math.log(n)
    share = min(max(share, 0.0), 1.0) ** options[2]
    divide_by_temperature(logits, max_logit, max(options[0] + (options[1] - options[0]) * share, options[3]))
    return n


@compile_sampler_kernel
def greedy(logits, ids, ordered, options):
    """Keep the likeliest candidate; of equally likely ones, the one with the lowest id."""
    best, at = max_of(logits), -1
    for start in range(0, len(logits), LANES):
        block = logits[start : start + LANES]
        hits = 0
        for i in range(len(block)):
            hits += block[i] == best
        if hits:
            for i in range(len(block)):
                if block[i] == best and (at < 0 or ids[start + i] < ids[at]):
                    at = start + i
    logits[0], ids[0], ordered[0] = best, ids[at], 1
    return 1


@compile_sampler_kernel
def penalties(logits, ids, ordered, options):
    """Penalise recent tokens; ``options``: repeat, presence, frequency, number of tokens, (id, count) of each token."""
    n, repeat, presence, frequency = len(logits), np.float32(options[0]), options[1], options[2]
    n_tokens = int(options[3])
    tokens = options[4 : 4 + 2 * n_tokens].reshape(n_tokens, 2)

    ordered[0] = 0
    any_elsewhere = False  # in a whole vocabulary in order, a token is its own index
    for i in range(n_tokens):
        at = int(tokens[i, 0])
        if at < n and ids[at] == at:
            value = logits[at] / repeat if logits[at] > ZERO else logits[at] * repeat
            logits[at] = np.float32(value - np.float32(tokens[i, 1] * frequency + presence))
        else:
            any_elsewhere = True
    if not any_elsewhere:
        return n

    max_token = 0
    for i in range(n_tokens):
        max_token = max(max_token, int(tokens[i, 0]))

    counts = np.zeros(max_token + 1)
    for i in range(n_tokens):
        counts[int(tokens[i, 0])] = tokens[i, 1]

    for i in range(n):
        token = ids[i]
        if token != i and 0 <= token < len(counts) and counts[token] > 0:
            value = logits[i] / repeat if logits[i] > ZERO else logits[i] * repeat
            logits[i] = np.float32(value - np.float32(counts[token] * frequency + presence))
    return n
