"""What the Numba backend runs for the operators of this plugin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def hadamard(part: int, x: Any, signs: Any, inverse: Any, out: Any) -> None:
    """Compute one block of `hadamard.Hadamard` by n log n additions."""
    row, n = out[part], x.shape[1]
    first = part * n % len(signs)
    for i in range(n):
        row[i] = x[part, i] if inverse else x[part, i] * signs[first + i]

    for i in range(0, n - 3, 4):  # the two lowest bits of an index
        a, b, c, d = row[i] + row[i + 1], row[i] - row[i + 1], row[i + 2] + row[i + 3], row[i + 2] - row[i + 3]
        row[i], row[i + 1], row[i + 2], row[i + 3] = a + c, b + d, a - c, b - d
    step = 4 if n >= 4 else 1
    while step < n:
        for start in range(0, n, 2 * step):
            for i in range(start, start + step):
                a, b = row[i], row[i + step]
                row[i], row[i + step] = a + b, a - b
        step *= 2

    scale = np.float32(1 / math.sqrt(n))
    for i in range(n):
        row[i] = row[i] * scale * signs[first + i] if inverse else row[i] * scale
