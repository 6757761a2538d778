"""What decoders have in common, in float64, one text at a time, with the names of their published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from checkpoints import Checkpoint
from checkpoints.folders import write_folder
from checkpoints.with_numpy.encoder import Array, Arrays, attended


def published(checkpoint: Checkpoint, config: Mapping[str, Any], tensors: Arrays) -> Arrays:
    """Return the tensors by the names of published checkpoints, as the conversion's rules write them."""
    with TemporaryDirectory() as folder:
        found: Arrays = load_file(write_folder(checkpoint, Path(folder), config, tensors) / "model.safetensors")
    return found


def layer_of(tensors: Arrays, prefix: str) -> Arrays:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def rms(x: Array, weight: Array, eps: float) -> Array:
    """Return the RMSNorm over the last axis."""
    result: Array = weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return result


def silu(x: Array) -> Array:
    """Return x times its logistic function."""
    result: Array = x / (1 + np.exp(-x))
    return result


def causal(q: Array, k: Array, v: Array, bias: Array | float = 0.0, window: int | None = None) -> Array:
    """Return attention to the token itself and earlier ones, at most ``window``; see `attended` for the shapes.

    Fewer heads of keys and values serve several heads of queries each.
    """
    times = len(q) // len(k)
    distance = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])
    is_seen = (distance >= 0) & (distance < (window or len(distance)))
    mask = np.where(is_seen, 0.0, -np.inf)
    return attended(q, np.repeat(k, times, 0), np.repeat(v, times, 0), bias + mask)
