"""The samplers' computations as compiled kernels. `llamafw.compile_sampler_kernel` says what a kernel receives.

Imported when the first sampler is made, for it needs numba. The formulas are told where the samplers are.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from llamafw import compile_sampler_kernel

# expf after Cephes: 2^i · e^r, |r| ≤ ln 2 / 2, a polynomial in r; float32 throughout, so that it becomes vector code
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504088896341), np.float32(0.693359375), np.float32(-2.12194440e-4)
C0, C1, C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C3, C4, C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
LANES = 64
HALF, ONE, ZERO, LEAST = np.float32(0.5), np.float32(1), np.float32(0), np.float32(-87)


def inline(function: Any) -> Any:
    """Mark a function that kernels call."""
    return numba.njit(nogil=True, error_model="numpy")(function)


# --- parts ------------------------------------------------------------------------------------------


@inline
def peak_of(logits):
    """Return the highest of logits, which are not NaN."""
    n = len(logits)
    best = logits[0]
    if n >= 2 * LANES:  # lane by lane, which becomes vector code
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
def sum_of(values):
    """Return a float64 sum, in an order that suits the processor."""
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i])
    return total


@inline
def weights_of(logits, peak):
    """Return exp(logit - peak) as float32; 0 below 1e-38."""
    m = len(logits)
    weights = np.empty(m, np.float32)
    powers = np.empty(m, np.int32)
    for i in range(m):
        x = logits[i] - peak
        x = x if x > LEAST else LEAST
        whole = np.float32(np.floor(x * LOG2_E + HALF))
        r = x - whole * LN2_HIGH - whole * LN2_LOW
        p = ((((C0 * r + C1) * r + C2) * r + C3) * r + C4) * r + C5
        weights[i] = p * r * r + r + ONE
        powers[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    scales = powers.view(np.float32)
    for i in range(m):
        weights[i] = weights[i] * scales[i] if logits[i] - peak > LEAST else ZERO
    return weights


@inline
def descending(values):
    """Return the indices of all values in descending order, of equals the lower index first. A radix sort."""
    n = len(values)
    keys, order = np.empty(n, np.uint32), np.arange(n)
    other_keys, other_order = np.empty(n, np.uint32), np.empty(n, np.int64)
    bits = keys.view(np.int32)
    floats = keys.view(np.float32)
    for i in range(n):
        floats[i] = values[i] if values[i] != ZERO else ZERO  # -0 is 0
        if bits[i] >= 0:  # the larger, the smaller its key; a negative float's bits are in that order already
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
def floor_of(values, n):
    """Return a value that at least ``n`` of the values reach, and not many more exceed."""
    group = min(len(values) // (4 * n), LANES)
    if group < 2:
        return np.float32(-np.inf)
    columns = len(values) // group
    peaks = values[:columns].copy()  # of each column of a (group, columns) matrix: n of them are at least n values
    for row in range(1, group):
        line = values[row * columns : (row + 1) * columns]
        for i in range(columns):
            peaks[i] = line[i] if line[i] > peaks[i] else peaks[i]
    return peaks[descending(peaks)[n - 1]]


@inline
def best_of(values, n):
    """Return the indices of the ``n`` largest values, largest first, of equals the lower index first."""
    n = min(n, len(values))
    floor = floor_of(values, n)
    found, count, ties = np.empty(len(values), np.int64), 0, 0
    for start in range(0, len(values), LANES):
        block = values[start : start + LANES]
        hits = 0
        for i in range(len(block)):
            hits += block[i] >= floor
        if hits == 0:  # as it usually is
            continue
        for i in range(len(block)):
            if block[i] > floor or (block[i] == floor and ties < n):
                ties += block[i] == floor
                found[count] = start + i
                count += 1
    some = np.empty(count, np.float32)
    for i in range(count):
        some[i] = values[found[i]]
    order = descending(some)[:n]
    for i in range(len(order)):
        order[i] = found[order[i]]
    return order


@inline
def nucleus(values, weights, enough, at_least, strict):
    """Return the indices of the largest values, largest first, that together have enough weight.

    ``strict``: more than enough is needed. At least ``at_least`` are returned, if there are so many.
    """
    m = len(values)
    n = min(max(at_least, 64), m)
    while True:  # usually few are enough, so look at all only if they are not
        order = best_of(values, n)
        total = 0.0
        for i in range(len(order)):
            total += weights[order[i]]
            if total > enough or (total == enough and not strict):
                return order[: max(i + 1, at_least)]
        if n == m:
            return order
        n = min(16 * n, m)


@inline
def take(logits, ids, order):
    """Leave the candidates at these places, in this order."""
    n = len(order)
    some_logits, some_ids = np.empty(n, np.float32), np.empty(n, np.int32)
    for i in range(n):
        some_logits[i], some_ids[i] = logits[order[i]], ids[order[i]]
    for i in range(n):
        logits[i], ids[i] = some_logits[i], some_ids[i]
    return n


@inline
def keep(logits, ids, places):
    """Leave the candidates at these places, in the order they are in."""
    stays = np.zeros(len(logits), np.bool_)
    for i in range(len(places)):
        stays[places[i]] = True
    n = 0
    for i in range(len(logits)):
        if stays[i]:
            logits[n], ids[n] = logits[i], ids[i]
            n += 1
    return n


@inline
def divide(logits, peak, temperature):
    """Divide by T what is below the peak, so that no quotient leaves float32 upwards."""
    t = np.float32(temperature)
    for i in range(len(logits)):
        logits[i] = (logits[i] - peak) / t


@numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def entropy_of(weights, logits, peak, total):
    """Return the entropy in nats, weights being the candidates' shares of ``total``."""
    mean = 0.0
    for i in range(len(logits)):
        x = logits[i] - peak
        mean += np.float64(weights[i] * (x if x > LEAST else LEAST))  # below it the weight is 0
    return math.log(total) - mean / total


# --- kernels ----------------------------------------------------------------------------------------


@compile_sampler_kernel
def top_k(logits, ids, ordered, options):
    """``options``: k."""
    k = int(options[0])
    if k >= len(logits):
        return len(logits)
    if ordered[0]:
        return k
    ordered[0] = 1
    return take(logits, ids, best_of(logits, k))


@compile_sampler_kernel
def top_p(logits, ids, ordered, options):
    """``options``: p, how many are left at least."""
    n, p, at_least = len(logits), options[0], int(options[1])
    peak = logits[0] if ordered[0] else peak_of(logits)
    if ordered[0]:
        weights = np.empty(n)
        for i in range(n):
            weights[i] = math.exp(np.float64(logits[i]) - peak)
        enough, total = p * sum_of(weights), 0.0
        for i in range(n):
            total += weights[i]
            if total >= enough:
                return min(max(i + 1, at_least), n)
        return n
    weights = weights_of(logits, peak)
    order = nucleus(logits, weights, p * sum_of(weights), at_least, False)
    if len(order) < n:
        ordered[0] = 1
        take(logits, ids, order)
    return len(order)


@compile_sampler_kernel
def min_p(logits, ids, ordered, options):
    """``options``: ln p, how many are left at least."""
    n, at_least = len(logits), min(int(options[1]), len(logits))
    least = np.float64(logits[0] if ordered[0] else peak_of(logits)) + options[0]
    if ordered[0]:
        while n > 1 and n > at_least and logits[n - 1] < least:
            n -= 1
        return n
    left = 0
    for i in range(n):
        left += logits[i] >= least
    if left < at_least:
        return keep(logits, ids, best_of(logits, at_least))
    if left < n:
        at = 0
        for i in range(n):
            if logits[i] >= least:
                logits[at], ids[at] = logits[i], ids[i]
                at += 1
    return left


@compile_sampler_kernel
def typ_p(logits, ids, ordered, options):
    """``options``: p, how many are left at least."""
    n = len(logits)
    peak = logits[0] if ordered[0] else peak_of(logits)
    weights = weights_of(logits, peak)
    total = sum_of(weights)
    # ln p = shift - ln total, so -ln p - H = mean shift - shift
    mean = np.float32(math.log(total) - entropy_of(weights, logits, peak, total))
    nearness = np.empty(n, np.float32)
    for i in range(n):
        nearness[i] = -abs(logits[i] - peak - mean)
    order = nucleus(nearness, weights, options[0] * total, int(options[1]), True)
    return keep(logits, ids, order) if len(order) < n else n


@compile_sampler_kernel
def tfs_z(logits, ids, ordered, options):
    """``options``: z, how many are left at least."""
    n, z, at_least = len(logits), options[0], int(options[1])
    if n < 3:  # nothing bends
        return n
    order = np.arange(n) if ordered[0] else best_of(logits, n)
    chances = np.empty(n)
    for i in range(n):
        chances[i] = math.exp(np.float64(logits[order[i]]) - np.float64(logits[order[0]]))
    all_chances = sum_of(chances)
    bends = np.empty(n - 2)
    for i in range(n - 2):
        bends[i] = abs((chances[i + 2] - chances[i + 1]) - (chances[i + 1] - chances[i])) / all_chances
    total, share = sum_of(bends), 0.0
    for i in range(n - 2):
        share += bends[i] / total if total > 1e-12 else 1 / (n - 2)
        if share > z:
            ordered[0] = 1
            return take(logits, ids, order[: min(max(i, at_least), n)])
    return n


@compile_sampler_kernel
def temperature(logits, ids, ordered, options):
    """``options``: T."""
    divide(logits, logits[0] if ordered[0] else peak_of(logits), options[0])
    return len(logits)


@compile_sampler_kernel
def dynamic_temperature(logits, ids, ordered, options):
    """``options``: the lowest T, the highest, the exponent, what T is at least."""
    n = len(logits)
    if n < 2:
        return n
    peak = logits[0] if ordered[0] else peak_of(logits)
    weights = weights_of(logits, peak)
    share = entropy_of(weights, logits, peak, sum_of(weights)) / math.log(n)
    share = min(max(share, 0.0), 1.0) ** options[2]
    divide(logits, peak, max(options[0] + (options[1] - options[0]) * share, options[3]))
    return n


@compile_sampler_kernel
def greedy(logits, ids, ordered, options):
    """Take the likeliest; of equals the lowest token."""
    best, at = peak_of(logits), -1
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
    """``options``: repeat, presence, frequency, how many tokens, then of each its id and how often it occurred."""
    n, repeat, presence, frequency = len(logits), np.float32(options[0]), options[1], options[2]
    n_tokens = int(options[3])
    tokens = options[4 : 4 + 2 * n_tokens].reshape(n_tokens, 2)
    ordered[0] = 0
    elsewhere = False  # in a whole vocabulary in order a token is its own index
    for i in range(n_tokens):
        at = int(tokens[i, 0])
        if at < n and ids[at] == at:
            value = logits[at] / repeat if logits[at] > ZERO else logits[at] * repeat
            logits[at] = np.float32(value - np.float32(tokens[i, 1] * frequency + presence))
        else:
            elsewhere = True
    if not elsewhere:
        return n
    most = 0
    for i in range(n_tokens):
        most = max(most, int(tokens[i, 0]))
    counts = np.zeros(most + 1)
    for i in range(n_tokens):
        counts[int(tokens[i, 0])] = tokens[i, 1]
    for i in range(n):
        token = ids[i]
        if token != i and 0 <= token < len(counts) and counts[token] > 0:
            value = logits[i] / repeat if logits[i] > ZERO else logits[i] * repeat
            logits[i] = np.float32(value - np.float32(counts[token] * frequency + presence))
    return n
