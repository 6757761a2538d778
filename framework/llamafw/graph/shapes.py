"""Operators that only rearrange a row: reshape, slice, concatenate, repeat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamafw.graph.values import Array, GraphError, Shape, Value, size_of

if TYPE_CHECKING:
    from llamafw.graph.evaluate import Evaluation


@dataclass(frozen=True, slots=True, eq=False)
class Reshape(Value):
    """The same numbers in another shape; nothing moves in memory."""

    x: Value
    to: Shape

    def infer_shape(self) -> Shape:
        """Return the new shape."""
        if math.prod(self.to) != size_of(self.x):
            raise GraphError(f"a row of shape {self.x.shape} cannot have the shape {self.to}")
        return self.to

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the rows in their new shape."""
        array: Array = inputs["x"].reshape(len(inputs["x"]), *self.to)
        return array


@dataclass(frozen=True, slots=True, eq=False)
class Slice(Value):
    """Entries ``first`` to ``last - 1`` of the last axis."""

    x: Value
    first: int
    last: int

    def infer_shape(self) -> Shape:
        """Return the shape with a shorter last axis."""
        if not self.x.shape or not 0 <= self.first < self.last <= self.x.shape[-1]:
            raise GraphError(f"a row of shape {self.x.shape} has no slice from {self.first} to {self.last}")
        return (*self.x.shape[:-1], self.last - self.first)

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the entries."""
        array: Array = inputs["x"][..., self.first : self.last]
        return array


@dataclass(frozen=True, slots=True, eq=False)
class Concat(Value):
    """Rows joined along the last axis.

    A part with a single head is repeated for every head.
    """

    parts: tuple[Value, ...]

    def infer_shape(self) -> Shape:
        """Return the shape with the sum of the last axes."""
        front = max((part.shape[:-1] for part in self.parts), key=math.prod)
        if any(part.shape[:-1] not in (front, (1,) * len(front)) for part in self.parts):
            raise GraphError(f"rows of shapes {[part.shape for part in self.parts]} cannot be concatenated")
        return (*front, sum(part.shape[-1] for part in self.parts))

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the concatenated rows."""
        front = self.shape[:-1]
        parts = [np.broadcast_to(part, (len(part), *front, part.shape[-1])) for part in inputs["parts"]]
        return np.concatenate(parts, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Repeat(Value):
    """Each head repeated ``times`` times: ``(h0, h0, h1, h1 …)``, or ``(h0, h1 …, h0, h1 …)`` if ``tiled``."""

    x: Value  # (n_head, size)
    times: int
    tiled: bool = False

    def infer_shape(self) -> Shape:
        """Return the shape with more heads."""
        if len(self.x.shape) != 2 or self.times < 1:
            raise GraphError(
                f"a value of shape {self.x.shape} cannot be repeated {self.times} times; it must have heads"
            )
        return (self.x.shape[0] * self.times, self.x.shape[1])

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the repeated heads."""
        x = inputs["x"]
        return np.tile(x, (1, self.times, 1)) if self.tiled else np.repeat(x, self.times, 1)
