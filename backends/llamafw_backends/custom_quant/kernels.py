"""What the Numba backend runs for the operators of this plugin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def hadamard(part: int, x: Any, signs: Any, inverse: Any, out: Any) -> None:
    """Compute one block of `hadamard.Hadamard` by n log n additions.

    Each step transforms the lowest bit of the index, and moves it to the front. Its loops become vector instructions.
    """
    n = x.shape[1]
    first, half = part * n % len(signs), n // 2
    row, block_signs, result = x[part], signs[first : first + n], out[part]
    source = np.empty(n, np.float32)
    for i in range(n):
        source[i] = row[i] if inverse else row[i] * block_signs[i]

    left = n
    while left > 1:
        low, high = result[:half], result[half:]
        for i in range(half):
            even, odd = source[2 * i], source[2 * i + 1]
            low[i] = even + odd
            high[i] = even - odd
        for i in range(n):
            source[i] = result[i]
        left //= 2

    scale = np.float32(1 / math.sqrt(n))
    for i in range(n):
        result[i] = source[i] * scale * block_signs[i] if inverse else source[i] * scale
