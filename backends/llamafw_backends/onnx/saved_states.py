"""What a saved state has: arrays one after the other, whose shapes follow from the model and the positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

from llamafw import Bytes
from llamafw_backends.onnx.lowering import StateTensor
from llamafw_backends.onnx.model_builder import Array


def state_digest(states: Iterable[StateTensor]) -> str:
    """Return a text that differs if slots keep other tensors: they depend on the nodes that a provider has."""
    text = repr([(state.name, state.shape, str(state.dtype)) for state in states])
    return sha256(text.encode()).hexdigest()[:16]


def n_bytes(arrays: Iterable[Array]) -> int:
    """Return the size of arrays in bytes."""
    return sum(array.nbytes for array in arrays)


def unpack(state: Bytes, like: Sequence[Array]) -> list[Array]:
    """Return arrays of the shapes and types of ``like``, which follow one another in ``state``."""
    arrays, start = [], 0
    for array in like:
        arrays.append(state[start : start + array.nbytes].copy().view(array.dtype).reshape(array.shape))
        start += array.nbytes
    return arrays


def pack(arrays: Iterable[Array]) -> Bytes:
    """Return the bytes of arrays, one after the other."""
    parts = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays)
    return np.concatenate([np.zeros(0, np.uint8), *parts])


def shapes_like(states: Iterable[StateTensor], n: int) -> list[Array]:
    """Return arrays of the shapes and types of what a slot of ``n`` positions keeps; they use no memory."""
    shapes = [((state.shape[0], n, *state.shape[1:]) if state.grows else state.shape, state.dtype) for state in states]
    return [np.broadcast_to(np.zeros((), dtype), shape) for shape, dtype in shapes]
