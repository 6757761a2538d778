"""Values of a graph, and the inputs that a batch provides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llamafw.errors import ModelError

if TYPE_CHECKING:
    from llamafw.graph.evaluate import Evaluation

Shape = tuple[int, ...]
"""The shape of one token's row."""

Array = np.ndarray[Any, np.dtype[Any]]
"""The rows of several tokens, numbers or integer indices: ``(n_tokens, *shape)``."""


class GraphError(ModelError):
    """Operators do not fit together, or a tensor is missing, unused or of the wrong shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The result of an operator: one row of numbers per token.

    Shapes are those of a single token, as in papers; the batch decides how many tokens there are, which texts they
    belong to and at which positions. A subclass is an operator: its fields are its inputs, weights and numbers,
    `infer_shape` checks them and returns the row's shape, and `evaluate` computes the rows with numpy.
    """

    shape: Shape = field(init=False)

    def __init_subclass__(cls) -> None:
        # the one that dataclass would generate repeats each operand wherever it is used, which takes forever
        cls.__repr__ = Value.__repr__  # type: ignore[method-assign]  # for all operators alike

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.infer_shape())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape}>" if hasattr(self, "shape") else f"<{type(self).__name__}>"

    def infer_shape(self) -> Shape:
        """Return the shape of one row; raise GraphError if the inputs do not fit."""
        raise NotImplementedError(type(self).__name__)

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Any:
        """Return the rows of the next tokens of one text, ``(n_tokens, *shape)``.

        Parameters
        ----------
        inputs : mapping of str to array
            The rows of each field that is a value; a list of rows for a field that is a tuple of values.
        run : Evaluation
            The tokens, their positions, the text's state before them, and the weights.
        """
        raise NotImplementedError(type(self).__name__)

    @property
    def state_shape(self) -> Shape:
        """Shape of what a slot keeps for the operator, regardless of the text's length; () if it keeps nothing."""
        return ()

    @property
    def has_state(self) -> bool:
        """Whether later tokens depend on what this operator keeps."""
        return self.state_shape != ()

    def operands(self) -> Iterator[tuple[str, Value | tuple[Value, ...]]]:
        """Yield the names and values of the fields that are values, or tuples of values."""
        for name in operand_names(type(self)):
            operand = getattr(self, name)
            if isinstance(operand, Value) or (isinstance(operand, tuple) and operand and isinstance(operand[0], Value)):
                yield name, operand

    def inputs(self) -> list[Value]:
        """Return the values that this one is computed from."""
        found: list[Value] = []
        for _, operand in self.operands():
            found += operand if isinstance(operand, tuple) else (operand,)
        return found

    def __add__(self, other: Value) -> Value:
        from llamafw.graph.rows import Add  # here, because operators are subclasses of this class

        return Add(self, other)

    def __mul__(self, other: Value | float) -> Value:
        from llamafw.graph.rows import Mul, Scale

        return Mul(self, other) if isinstance(other, Value) else Scale(self, float(other))


def operand_names(kind: type[Value]) -> tuple[str, ...]:
    """Return the names of an operator's fields, except the shape."""
    if kind not in _OPERAND_NAMES:
        _OPERAND_NAMES[kind] = tuple(one.name for one in fields(kind) if one.name != "shape")
    return _OPERAND_NAMES[kind]


_OPERAND_NAMES: dict[type[Value], tuple[str, ...]] = {}
"""What `operand_names` has returned. For mypy, a class with ``__hash__`` cannot be an argument of `functools.cache`."""


def size_of(value: Value) -> int:
    """Return how many numbers a row of the value has."""
    return math.prod(value.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Input(Value):
    """What the batch provides for each token: its id, its position in the text, or its type."""

    name: Literal["tokens", "positions", "types"]

    def infer_shape(self) -> Shape:
        """Return the shape of a single number."""
        return ()

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the ids, the positions or the types, ``(n_tokens,)``."""
        return {"tokens": run.tokens, "positions": run.positions, "types": run.types}[self.name]


@dataclass(frozen=True, slots=True, eq=False)
class TokenScales(Value):
    """Numbers that the batch provides for each token, such as the strengths of adapters; see `adapters`."""

    n: int

    def infer_shape(self) -> Shape:
        """Return the shape of one token's numbers."""
        if self.n < 1:
            raise GraphError(f"a token cannot have {self.n} scales")
        return (self.n,)

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the numbers, ``(n_tokens, n)``."""
        return run.scales(self.n)


@dataclass(frozen=True, slots=True, eq=False)
class HiddenRows(Value):
    """Hidden states that the batch provides for each token: those of another graph of the same model."""

    n: int

    def infer_shape(self) -> Shape:
        """Return the shape of one token's hidden state."""
        if self.n < 1:
            raise GraphError(f"a hidden state cannot have {self.n} numbers")
        return (self.n,)

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the hidden states, ``(n_tokens, n)``."""
        return run.hidden(self.n)


TOKENS = Input("tokens")
"""The id of each token of the batch."""
POSITIONS = Input("positions")
"""The position of each token in its text."""
TYPES = Input("types")
"""The type of each token: the part of the text that it belongs to, in models such as BERT."""
