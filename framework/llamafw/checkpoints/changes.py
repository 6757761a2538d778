"""How the numbers of a checkpoint's tensors differ from those of a GGUF file; every change can be undone.

A change turns some arrays into others: ``forward`` is the direction of the conversion to GGUF, ``backward`` the
opposite. Most change each array on its own; `Stack`, `Split` and their inverses also change how many there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""A tensor of a checkpoint, of any type."""


class Change(ABC):
    """Turns arrays into others, and back.

    ``forward`` and ``backward`` may return views. They raise ValueError if an array does not have a shape that fits.
    """

    @abstractmethod
    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return a checkpoint's arrays as GGUF has them."""

    @abstractmethod
    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return GGUF's arrays as a checkpoint has them."""

    def describe(self, arrays: Sequence[Array]) -> list[Array]:
        """Return arrays with the shapes and dtypes of `forward`'s results, but any numbers.

        Called with arrays that need no memory (all strides are 0). Override it if `forward` would copy large ones.
        """
        return self.forward(arrays)


class EachAlone(Change):
    """A change of every array on its own."""

    @abstractmethod
    def change(self, array: Array) -> Array:
        """Return a checkpoint's array as GGUF has it."""

    @abstractmethod
    def undo(self, array: Array) -> Array:
        """Return GGUF's array as a checkpoint has it."""

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Change every array."""
        return [self.change(array) for array in arrays]

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Undo the change of every array."""
        return [self.undo(array) for array in arrays]


@dataclass(frozen=True, slots=True)
class Permute(EachAlone):
    """Rows of Q or K: pairs that RoPE rotates are the halves of a head in the checkpoint, and adjacent in GGUF.

    For weights ``(n_head · size, n_in)`` and biases ``(n_head · size,)`` of the architectures whose graph says
    ``interleaved=True`` and whose checkpoints have halves, such as Llama.
    """

    n_head: int

    def change(self, array: Array) -> Array:
        """Make pairs adjacent."""
        return array.reshape(self.n_head, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)

    def undo(self, array: Array) -> Array:
        """Put the pairs into halves."""
        return array.reshape(self.n_head, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


@dataclass(frozen=True, slots=True)
class Add(EachAlone):
    """Add a number: RMSNorms that multiply by 1 + weight in the original multiply by the weight in GGUF."""

    number: float = 1.0

    def change(self, array: Array) -> Array:
        """Add the number, in float32."""
        return _as_float(array) + np.float32(self.number)

    def undo(self, array: Array) -> Array:
        """Subtract the number."""
        return _as_float(array) - np.float32(self.number)


@dataclass(frozen=True, slots=True)
class NegativeExp(EachAlone):
    """−exp(x): Mamba's decays are stored as ``A_log`` in checkpoints, and as −exp(A_log) in GGUF."""

    def change(self, array: Array) -> Array:
        """Return −exp(x), in float32."""
        return -np.exp(_as_float(array))

    def undo(self, array: Array) -> Array:
        """Return log(−x)."""
        return np.log(-_as_float(array))


@dataclass(frozen=True, slots=True)
class Transpose(EachAlone):
    """Swap the last two axes, as for the layers ``Conv1D`` of GPT-2, which have ``(n_in, n_out)``; not of vectors."""

    def change(self, array: Array) -> Array:
        """Swap the axes."""
        return array.swapaxes(-1, -2) if array.ndim > 1 else array

    def undo(self, array: Array) -> Array:
        """Swap the axes back."""
        return self.change(array)


@dataclass(frozen=True, slots=True)
class Reshape(EachAlone):
    """Give arrays another shape: ``Reshape((-1, 1), (-1,))``.

    One number of each shape may be −1, as in numpy.
    """

    shape: tuple[int, ...]  # in GGUF
    original: tuple[int, ...]  # in the checkpoint

    def change(self, array: Array) -> Array:
        """Return the array in GGUF's shape."""
        return array.reshape(self.shape)

    def undo(self, array: Array) -> Array:
        """Return the array in the checkpoint's shape."""
        return array.reshape(self.original)


@dataclass(frozen=True, slots=True)
class Squeeze(EachAlone):
    """Remove an axis of size 1, as that of depthwise convolutions, ``(n_channel, 1, kernel)``."""

    axis: int = 1

    def change(self, array: Array) -> Array:
        """Remove the axis."""
        return np.squeeze(array, self.axis)

    def undo(self, array: Array) -> Array:
        """Insert the axis."""
        return np.expand_dims(array, self.axis)


@dataclass(frozen=True, slots=True)
class DropRows(EachAlone):
    """Remove the first rows; in the other direction they are zeros.

    RoBERTa has positions that no token can have.
    """

    n: int

    def change(self, array: Array) -> Array:
        """Remove the rows."""
        if len(array) <= self.n:
            raise ValueError(f"there are {len(array)} rows, of which {self.n} have no meaning")
        return array[self.n :]

    def undo(self, array: Array) -> Array:
        """Insert rows of zeros."""
        return np.concatenate([np.zeros((self.n, *array.shape[1:]), array.dtype), array])


@dataclass(frozen=True, slots=True)
class FirstRows(EachAlone):
    """Keep the first rows only; in the other direction nothing changes."""

    n: int

    def change(self, array: Array) -> Array:
        """Return the first rows."""
        if len(array) < self.n:
            raise ValueError(f"there are {len(array)} rows, not {self.n}")
        return array[: self.n]

    def undo(self, array: Array) -> Array:
        """Return the rows that there are."""
        return array


@dataclass(frozen=True, slots=True)
class Regroup(EachAlone):
    """Reorder heads along an axis: member by member of each group in the checkpoint, group by group in GGUF.

    With 2 groups of 3 heads, checkpoints have a0 a1 a2 b0 b1 b2 and GGUF files a0 b0 a1 b1 a2 b2.
    """

    n_group: int
    n_member: int  # heads of each group
    axis: int = 0
    start: int = 0  # entries before it along the axis stay

    def change(self, array: Array) -> Array:
        """Put first members first."""
        return self._reorder(array, self.n_group, self.n_member)

    def undo(self, array: Array) -> Array:
        """Put the members of a group side by side."""
        return self._reorder(array, self.n_member, self.n_group)

    def _reorder(self, array: Array, outer: int, inner: int) -> Array:
        moved = np.moveaxis(array, self.axis, 0)
        kept, heads = moved[: self.start], moved[self.start :]
        heads = heads.reshape(outer, inner, -1, *heads.shape[1:]).swapaxes(0, 1).reshape(heads.shape)
        result = np.concatenate([kept, heads]) if self.start else heads
        return np.moveaxis(result, 0, self.axis)


@dataclass(frozen=True, slots=True)
class Split(Change):
    """One tensor in the checkpoint, several in GGUF: parts of the given sizes along an axis, or so many equal parts."""

    sizes: tuple[int, ...] | int
    axis: int = 0

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the parts."""
        (array,) = arrays
        size = array.shape[self.axis]
        if isinstance(self.sizes, int):
            if size % self.sizes:
                raise ValueError(f"{size} cannot be divided into {self.sizes} equal parts")
            return np.split(array, self.sizes, self.axis)
        if sum(self.sizes) != size:
            raise ValueError(f"axis {self.axis} has the size {size}, not {sum(self.sizes)}")
        return np.split(array, np.cumsum(self.sizes)[:-1].tolist(), self.axis)

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the parts as one."""
        return [np.concatenate(arrays, self.axis)]


@dataclass(frozen=True, slots=True)
class Deinterleave(Change):
    """One tensor in the checkpoint, several in GGUF, whose entries alternate along an axis: a0 b0 a1 b1 …"""

    n: int
    axis: int

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the parts."""
        moved = np.moveaxis(arrays[0], self.axis, 0)
        if len(moved) % self.n:
            raise ValueError(f"axis {self.axis} has the size {len(moved)}, not a multiple of {self.n}")
        return [np.moveaxis(moved[i :: self.n], 0, self.axis) for i in range(self.n)]

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the parts as one."""
        stacked = np.stack([np.moveaxis(array, self.axis, 0) for array in arrays], 1)
        return [np.moveaxis(stacked.reshape(-1, *stacked.shape[2:]), 0, self.axis)]


@dataclass(frozen=True, slots=True)
class Stack(Change):
    """One tensor per expert in the checkpoint, one for all in GGUF: a new first axis."""

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the arrays as one."""
        return [np.stack(arrays)]

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Return one array per expert."""
        (array,) = arrays
        return list(array)

    def describe(self, arrays: Sequence[Array]) -> list[Array]:
        """Return an array of the shape of `forward`'s result."""
        if different := {array.shape for array in arrays} - {arrays[0].shape}:
            raise ValueError(f"shapes differ: {arrays[0].shape} and {min(different)}")
        return [np.broadcast_to(arrays[0], (len(arrays), *arrays[0].shape))]


@dataclass(frozen=True, slots=True)
class Inverse(Change):
    """A change in the other direction: ``Inverse(Split((64, 64)))`` joins two tensors of the checkpoint."""

    of: Change

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Undo the other change."""
        return self.of.backward(arrays)

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Make the other change."""
        return self.of.forward(arrays)

    def describe(self, arrays: Sequence[Array]) -> list[Array]:
        """Return arrays of the shapes of `forward`'s results, without joining large ones."""
        if not isinstance(self.of, Split):
            return self.forward(arrays)
        axis = self.of.axis
        rest = {(*array.shape[:axis], *array.shape[axis + 1 :]) for array in arrays}
        if len(rest) != 1:
            raise ValueError(f"shapes {', '.join(str(array.shape) for array in arrays)} cannot be joined")
        size = sum(array.shape[axis] for array in arrays)
        number = arrays[0][(0,) * arrays[0].ndim]
        return [np.broadcast_to(number, (*arrays[0].shape[:axis], size, *arrays[0].shape[axis + 1 :]))]


@dataclass(frozen=True, slots=True)
class Each(Change):
    """A change for each of several tensors: after `Split`, ``Each(Permute(8), Permute(2), None)``."""

    changes: tuple[Change | None, ...]

    def __init__(self, *changes: Change | None) -> None:
        object.__setattr__(self, "changes", changes)

    def forward(self, arrays: Sequence[Array]) -> list[Array]:
        """Change each array by its own change."""
        pairs = zip(arrays, self.changes, strict=True)
        return [array if change is None else change.forward([array])[0] for array, change in pairs]

    def backward(self, arrays: Sequence[Array]) -> list[Array]:
        """Undo the change of each array."""
        pairs = zip(arrays, self.changes, strict=True)
        return [array if change is None else change.backward([array])[0] for array, change in pairs]


def _as_float(array: Array) -> Array:
    """Return an array as float32, or float64 if it is."""
    return array if array.dtype == np.float64 else array.astype(np.float32)
