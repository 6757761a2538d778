"""Joins tensors of adapters to those that a graph with adapters reads.

A joined tensor is computed when it is read, so that it is in memory only while a backend copies it. Independent of the
files of adapters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llamafw.graph import Stack
from llamafw.interfaces import Quant
from llamafw.types import Bytes, Floats, Tensor
from llamafw.types.computed import ComputedTensor

FLOAT_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""Tensor types whose numbers can be moved one by one, with numpy types of their size."""


class StackedTensor(ComputedTensor):
    """A tensor that tensors of adapters are joined to.

    Parameters
    ----------
    stack : Stack
        Its name and shape, and where the others are in it.
    sources : sequence of Tensor
        The others, in the order of the stack's parts.
    type_name : str
        Its type, one of `FLOAT_TYPES`, which has all numbers of the others exactly.
    quants : mapping
        The tensor types that plugins have registered, by name.
    """

    __slots__ = ("sources", "_stack", "_quants")

    def __init__(self, stack: Stack, sources: Sequence[Tensor], type_name: str, quants: Mapping[str, Quant]) -> None:
        super().__init__(stack.name, stack.shape, type_name)
        self.sources, self._stack, self._quants = tuple(sources), stack, quants

    def __repr__(self) -> str:
        return f"<{self.name} {self.shape} {self.type_name} from {', '.join(one.name for one in self.sources)}>"

    @property
    def n_bytes(self) -> int:
        """Size of `data` in bytes."""
        return math.prod(self.shape) * np.dtype(FLOAT_TYPES[self.type_name]).itemsize

    @property
    def held_bytes(self) -> int:
        """What the others hold in memory."""
        return sum(one.held_bytes for one in self.sources)

    def release(self) -> None:
        """Let the operating system take back the memory of the files' pages."""
        for one in self.sources:
            one.release()

    def _compute(self) -> Bytes:
        joined = np.zeros(self.shape, FLOAT_TYPES[self.type_name])
        for part, source in zip(self._stack.parts, self.sources, strict=True):
            numbers = _numbers(source, self.type_name, self._quants)
            numbers = numbers if numbers.ndim == joined.ndim else numbers[..., None]  # a direction is a column
            place: list[Any] = [slice(None)] * joined.ndim
            place[self._stack.axis] = slice(part.start, part.start + numbers.shape[self._stack.axis])
            joined[tuple(place)] = numbers
        return joined.reshape(-1).view(np.uint8)


def join(stack: Stack, sources: Sequence[tuple[Tensor, str]], quants: Mapping[str, Quant]) -> Tensor:
    """Return the tensor that a stack describes, of a type that has all numbers of its parts exactly.

    Parameters
    ----------
    stack : Stack
        The stack.
    sources : sequence of (Tensor, str)
        The tensor of each part, and its `short_type`.
    quants : mapping
        The tensor types that plugins have registered, by name.
    """
    types = {type_name for _, type_name in sources}
    first, *others = (tensor for tensor, _ in sources)
    if not others and first.shape == stack.shape and types == {first.type_name}:
        return replace(first, name=stack.name)
    name = types.pop() if len(types) == 1 else "F32"
    return StackedTensor(stack, (first, *others), name if name in FLOAT_TYPES else "F32", quants)


def short_type(tensor: Tensor, quants: Mapping[str, Quant]) -> str:
    """Return the type of a tensor, or BF16 or F16 if it is F32 and these have all its numbers.

    A token then reads half of the bytes.
    """
    if tensor.type_name != "F32":
        return tensor.type_name
    bits = np.ascontiguousarray(tensor.data).view(np.uint32)
    if not (bits & 0xFFFF).any() and "BF16" in quants:
        return "BF16"
    numbers = bits.view(np.float32)
    with np.errstate(over="ignore"):
        is_exact = np.array_equal(numbers.astype(np.float16), numbers)
    return "F16" if is_exact and "F16" in quants else "F32"


def _numbers(tensor: Tensor, type_name: str, quants: Mapping[str, Quant]) -> Any:
    """Return the numbers of a tensor as an array of the numpy type of ``type_name``."""
    data = np.ascontiguousarray(tensor.data)
    if tensor.type_name == type_name:
        return data.view(FLOAT_TYPES[type_name]).reshape(tensor.shape)
    if tensor.type_name == "F32" and type_name == "BF16":
        return (data.view(np.uint32) >> 16).astype(np.uint16).reshape(tensor.shape)
    numbers: Floats = quants[tensor.type_name].dequantize(tensor.data, tensor.shape)
    return numbers.astype(FLOAT_TYPES[type_name], copy=False)
