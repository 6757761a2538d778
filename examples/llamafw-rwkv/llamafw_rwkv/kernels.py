"""What the Numba backend runs: each function computes a part of one token.

Inner loops run along the values of a head, so they become vector instructions without a change of the order of sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def token_shift(part: int, x: Any, mu: Any, state: Any, out: Any) -> None:
    """Compute one group of channels of `TokenShift`: ``state`` is the group in the row before."""
    n = len(state)
    first = part * n
    for i in range(len(mu)):
        for c in range(n):
            out[i, first + c] = x[first + c] + (state[c] - x[first + c]) * mu[i, first + c]
    for c in range(n):
        state[c] = x[first + c]


def wkv7(part: int, r: Any, w: Any, k: Any, v: Any, removed: Any, rate: Any, state: Any, out: Any) -> None:
    """Compute one head of `Wkv7`: ``state`` is its transposed matrix, (key, value)."""
    n = len(state)
    y, value, old = out[part], v[part], np.zeros(n, np.float32)
    for j in range(n):
        row, x = state[j], removed[part, j]
        for i in range(n):
            old[i] += row[i] * x

    y[:] = np.float32(0)
    for j in range(n):
        row, decay, key, r_j = state[j], w[part, j], k[part, j], r[part, j]
        step = rate[part, j] * removed[part, j]
        for i in range(n):
            row[i] = row[i] * decay + value[i] * key - old[i] * step
            y[i] += row[i] * r_j


def head_dot(part: int, a: Any, b: Any, weight: Any, out: Any) -> None:
    """Compute the sum of one head of `HeadDot`."""
    total = np.float32(0)
    for j in range(a.shape[1]):
        total += a[part, j] * b[part, j] * weight[part, j]
    out[part, 0] = total
