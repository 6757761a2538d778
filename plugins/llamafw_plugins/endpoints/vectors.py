"""Shorten, scale and encode embeddings."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from llamafw import Floats

MAX_ABS_SCALE = 32760  # embd_normalize 0 scales the largest absolute value to this, which fits into 16 bits


def scale_vectors(vectors: Floats, p: int) -> Floats:
    """Return the vectors, each scaled as ``embd_normalize`` says.

    Parameters
    ----------
    vectors : array of shape (n, n_embd), float32
        The vectors.
    p : int
        Positive: divide by the p-norm; 0: scale the largest absolute value to 32760; negative: do not scale.
    """
    if p < 0:
        return vectors
    wide = vectors.astype(np.float64)
    sizes = np.abs(wide)
    scale = sizes.max(axis=1) / MAX_ABS_SCALE if p == 0 else (sizes**p).sum(axis=1) ** (1 / p)
    scale[~(scale > 0)] = 1
    return np.asarray(wide / scale[:, None], np.float32)


def as_numbers(vectors: Floats) -> Floats:
    """Return vectors as responses have them: JSON is written from the array, with as few digits as float32 needs."""
    return np.ascontiguousarray(vectors, np.float32)


def as_base64(vector: Floats) -> str:
    """Return a vector as base64 of little-endian float32 numbers, as OpenAI's client expects."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def as_ubinary(vector: Floats) -> list[int]:
    """Return one bit per number, 1 for positive ones, eight of them per unsigned byte, the first one highest."""
    return np.packbits(vector > 0).tolist()


def as_binary(vector: Floats) -> list[int]:
    """Return the bytes of `as_ubinary` less 128, from -128 to 127."""
    return [byte - 128 for byte in as_ubinary(vector)]


ENCODINGS: dict[str, Any] = {"float": as_numbers, "base64": as_base64, "binary": as_binary, "ubinary": as_ubinary}
"""The functions above, by the names that requests have for them."""
