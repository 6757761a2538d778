"""The operator that rotates activations: a multiplication by signs, and a Walsh-Hadamard transform of each block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import graph as g


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard(g.Value):
    """``H (s · x)`` for each block of ``n`` numbers, or ``s · (H x)`` if ``inverse``.

    Entry (r, c) of the matrix H is 1 / √n, negative if r and c have an odd number of bits in common (Sylvester's
    order). H is its own inverse, and so is the multiplication by signs. ``signs`` are those of adjacent blocks; a row
    that has more blocks repeats them.
    """

    x: g.Value  # (n_blocks, n)
    signs: npt.NDArray[np.int8]  # (n_signs,): 1 or −1
    inverse: bool = False

    def infer_shape(self) -> g.Shape:
        """Return the input's shape."""
        n_blocks, n = self.x.shape if len(self.x.shape) == 2 else (0, 0)
        if n < 1 or n & (n - 1):
            raise g.GraphError(f"a row of shape {self.x.shape} is not made of blocks whose size is a power of two")
        if self.signs.ndim != 1 or not len(self.signs) or len(self.signs) % n or n_blocks * n % len(self.signs):
            raise g.GraphError(f"{self.signs.shape} signs do not fit a row of shape {self.x.shape}")
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> g.Array:
        """Return the rotated rows."""
        x = inputs["x"]
        signs = np.resize(self.signs, self.x.shape).astype(x.dtype)
        return transform(x) * signs if self.inverse else transform(x * signs)


def transform(x: g.Array) -> g.Array:
    """Return the Walsh-Hadamard transform of the last axis, whose size is a power of two."""
    n = x.shape[-1]
    for _ in range(n.bit_length() - 1):  # each step transforms the last bit of the index, and moves it to the front
        even, odd = x[..., ::2], x[..., 1::2]
        x = np.concatenate([even + odd, even - odd], axis=-1)
    result: g.Array = x * n**-0.5
    return result
