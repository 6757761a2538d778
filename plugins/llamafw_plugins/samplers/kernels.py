"""The samplers' computations as compiled kernels.

`llamafw.compile_sampler_kernel` describes a kernel's arguments; the samplers' docstrings have the formulas. This module
is imported when the first sampler is created, because it needs numba.
"""

from __future__ import annotations

import math

import numpy as np

from llamafw import compile_sampler_kernel
from llamafw_plugins.samplers.kernel_parts import (
    LANES,
    ZERO,
    divide_by_temperature,
    entropy,
    exp_weights,
    indices_of_largest,
    keep_at,
    keep_in_order,
    max_of,
    nucleus,
    sum_float64,
)

MAX_PENALTY = 1e30  # larger than any logit, and representable in float32


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


@compile_sampler_kernel
def top_n_sigma(logits, ids, ordered, options):
    """Keep the logits within n standard deviations of the highest; ``options`` has n."""
    n = len(logits)
    max_logit = np.float64(logits[0] if ordered[0] else max_of(logits))

    n_possible, total = 0, 0.0  # differences from the maximum, which keep their precision when squared
    for i in range(n):
        if logits[i] > -np.inf:
            n_possible += 1
            total += np.float64(logits[i]) - max_logit
    mean, squares = total / n_possible, 0.0
    for i in range(n):
        if logits[i] > -np.inf:
            squares += (np.float64(logits[i]) - max_logit - mean) ** 2

    limit = max_logit - options[0] * math.sqrt(squares / n_possible)
    n_kept = 0
    for i in range(n):
        if logits[i] >= limit and logits[i] > -np.inf:
            logits[n_kept], ids[n_kept] = logits[i], ids[i]
            n_kept += 1
    return n_kept


@compile_sampler_kernel
def xtc(logits, ids, ordered, options):
    """Remove all top choices but the last; ``options``: whether to remove them now, threshold, min_keep."""
    n, min_keep = len(logits), int(options[2])
    if options[0] == 0:
        return n
    weights = exp_weights(logits, logits[0] if ordered[0] else max_of(logits))
    limit = options[1] * sum_float64(weights)

    n_top, last = 0, 0  # last: the index of the least likely top choice
    for i in range(n):
        if weights[i] >= limit and weights[i] > ZERO:
            if n_top == 0 or logits[i] <= logits[last]:
                last = i
            n_top += 1
    if n_top < 2 or n - n_top + 1 < min_keep:
        return n

    n_kept = 0
    for i in range(n):
        if i == last or not (weights[i] >= limit and weights[i] > ZERO):
            logits[n_kept], ids[n_kept] = logits[i], ids[i]
            n_kept += 1
    return n_kept


@compile_sampler_kernel
def dry(logits, ids, ordered, options):
    """Penalise tokens that continue a repeated passage.

    ``options``: multiplier, base, allowed length, number of tokens since the last sequence breaker, start and end of
    the window, and the tokens. A token t that is a sequence breaker by itself is stored as -1 - t.
    """
    n, allowed, max_length = len(logits), int(options[2]), int(options[3])
    window = options[6 + int(options[4]) : 6 + int(options[5])]
    m = len(window)
    if m <= allowed or max_length < allowed:
        return n

    # z[i]: length of the common suffix of the window and the window without its last i tokens (Z-algorithm:
    # Gusfield: Algorithms on Strings, Trees, and Sequences, 1997, §1.4)
    z = np.zeros(m, np.int64)
    left, right, max_token = 0, 0, -1
    for i in range(1, m):
        length = min(z[i - left], right - i) if i < right else 0
        while i + length < m and window[m - 1 - length] == window[m - 1 - i - length]:
            length += 1
        z[i] = length
        if i + length > right:
            left, right = i, i + length
        if min(length, max_length) >= allowed:
            max_token = max(max_token, int(window[m - i]))  # the token that followed
    if max_token < 0:
        return n

    longest = np.full(max_token + 1, -1, np.int32)
    for i in range(1, m):
        token, length = int(window[m - i]), min(z[i], max_length)
        if token >= 0 and length >= allowed and length > longest[token]:
            longest[token] = length

    ordered[0] = 0
    for i in range(n):
        if ids[i] <= max_token and longest[ids[i]] >= 0:
            penalty = options[0] * options[1] ** np.float64(longest[ids[i]] - allowed)
            logits[i] = np.float32(logits[i] - min(penalty, MAX_PENALTY))
    return n
