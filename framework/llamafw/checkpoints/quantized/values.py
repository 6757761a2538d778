"""What the formats share: integers packed into words, scales of blocks, and tensors that are computed from others.

Independent of names and configs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from llamafw.checkpoints.changes import Array
from llamafw.checkpoints.tensors import CheckpointTensor
from llamafw.errors import ModelError
from llamafw.types import Floats

Integers = npt.NDArray[np.integer[Any]]

FLOAT32 = np.dtype(np.float32)


def unpack_integers(words: Integers, bits: int, axis: int) -> npt.NDArray[np.uint8]:
    """Return the integers in 32-bit words, the lowest bits first, side by side along an axis.

    Parameters
    ----------
    words : (…) int32
        Each has ``32 // bits`` integers.
    bits : int
        Bits of an integer, at most 8.
    axis : int
        Which axis becomes longer.

    Returns
    -------
    (…) uint8
        From 0 to ``2 ** bits - 1``.
    """
    words = np.ascontiguousarray(np.moveaxis(words, axis, -1)).view(np.uint32)
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    values = ((words[..., None] >> shifts) & np.uint32(2**bits - 1)).astype(np.uint8)
    return np.moveaxis(values.reshape(*words.shape[:-1], -1), -1, axis)


def scale_weights(weights: Array, scales: Array, block: Sequence[int] | None = None) -> Floats:
    """Return weights times their scales, each product rounded once to float32.

    Parameters
    ----------
    weights : (…, n_out, n_in)
        Any numbers that float32 has.
    scales : array
        One number; or one per row, ``(n_out,)`` or ``(…, n_out, 1)``; or one per block.
    block : sequence of int, optional
        Rows and columns of a block. The last block of an axis may be smaller.

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    scales = scales.astype(np.float32)
    if scales.size == 1:
        return weights.astype(np.float32) * scales.reshape(())
    if block is None:
        scales = scales.reshape(*scales.shape, *([1] * (weights.ndim - scales.ndim)))
        if np.broadcast_shapes(scales.shape, weights.shape) != weights.shape:
            raise ValueError(f"scales of shape {scales.shape} do not fit weights of shape {weights.shape}")
        return weights.astype(np.float32) * scales

    first = weights.ndim - len(block)
    expected = (*weights.shape[:first], *(-(-n // size) for n, size in zip(weights.shape[first:], block, strict=True)))
    if scales.shape != expected:
        raise ValueError(f"there are scales for {scales.shape} blocks, but {expected} blocks of {tuple(block)} weights")
    for axis, size in enumerate(block, first):
        scales = np.repeat(scales, size, axis)[(slice(None),) * axis + (slice(weights.shape[axis]),)]
    return weights.astype(np.float32) * scales


def scale_groups(integers: Integers, zeros: Integers | None, scales: Array, groups: Integers) -> Floats:
    """Return ``(integer - zero) · scale`` for weights in groups of columns.

    Parameters
    ----------
    integers : (n_out, n_in) integers
        The weights.
    zeros : (n_out, n_group) integers, optional
        What stands for 0 in each group of a row; None: 0 does.
    scales : (n_out, n_group) float16, bfloat16 or float32
        The scale of each group of a row.
    groups : (n_in,) integers
        The group of each column.

    Raises
    ------
    ValueError
        The shapes do not fit, or a group does not exist.
    """
    n_out, n_in = integers.shape
    if groups.shape != (n_in,) or groups.min() < 0 or groups.max() >= scales.shape[-1]:
        raise ValueError(f"{scales.shape[-1]} groups do not fit {n_in} columns")
    if len(scales) != n_out or (zeros is not None and zeros.shape != scales.shape):
        raise ValueError(f"scales of shape {scales.shape} do not fit {n_out} rows")
    values = integers.astype(np.float32)
    if zeros is not None:
        values -= zeros.astype(np.float32)[:, groups]
    values *= scales.astype(np.float32)[:, groups]
    return values


def groups_of(n_in: int, size: int) -> npt.NDArray[np.int64]:
    """Return the group of each column; a size of -1 or 0 stands for one group."""
    return np.arange(n_in) // (size if size > 0 else n_in)


def computed(
    name: str, shape: tuple[int, ...], sources: Sequence[CheckpointTensor], compute: Callable[..., Array]
) -> CheckpointTensor:
    """Return a tensor of float32 that is computed from others when it is read.

    Parameters
    ----------
    name : str
        Its name in a plain checkpoint.
    shape : tuple of int
        The shape of the result.
    sources : sequence of CheckpointTensor
        The tensors that the computation needs.
    compute : callable
        Takes the arrays of the sources, and returns an array of this shape.
    """
    path = sources[0].path

    def read() -> Array:
        try:
            array = compute(*(source.read() for source in sources))
            if array.shape != shape:
                raise ValueError(f"it has the shape {array.shape}, not {shape}")
        except ValueError as error:
            raise ModelError(f"{path}: {name} cannot be unpacked: {error}") from None
        return array

    files = tuple(file for source in sources for file in source.files)
    return CheckpointTensor(name, shape, FLOAT32, path, files, read)


def need(tensors: Mapping[str, CheckpointTensor], name: str, wanted_by: CheckpointTensor) -> CheckpointTensor:
    """Return a tensor that belongs to another one."""
    if name not in tensors:
        refuse(wanted_by, f"needs the tensor {name!r}, which is missing")
    return tensors[name]


def refuse(tensor: CheckpointTensor, reason: str) -> NoReturn:
    """Raise a ModelError about a tensor; ``reason`` continues the sentence after its name."""
    raise ModelError(f"{tensor.path}: the tensor {tensor.name!r} {reason}")
