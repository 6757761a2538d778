"""Rotates cached keys when their positions change."""

from __future__ import annotations

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.model_builder import Array


def rotate_back(keys: Array, rotation: g.Rotation, n: int, n_ctx: int) -> Array:
    """Return keys, ``(n_head, n_positions, size)``, of positions that are lower by ``n``."""
    n_pairs, start = len(rotation.frequencies), rotation.offset
    if rotation.interleaved:
        first, second = slice(start, start + 2 * n_pairs, 2), slice(start + 1, start + 2 * n_pairs, 2)
    else:
        first, second = slice(start, start + n_pairs), slice(start + n_pairs, start + 2 * n_pairs)
    angles = n * rotation.frequencies_for(n_ctx)
    cos, sin = np.cos(angles), np.sin(angles)
    x, y = keys[..., first].astype(np.float64), keys[..., second].astype(np.float64)
    rotated = keys.copy()
    rotated[..., first] = x * cos + y * sin
    rotated[..., second] = y * cos - x * sin
    return rotated
