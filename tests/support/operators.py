"""Evaluates single operators whose inputs a test provides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llamafw.graph import Array, Evaluation, Evaluator, Graph, Input, Shape, TextState, Value


class FixedRows(Value):
    """A value whose rows a test provides."""

    __slots__ = ("rows",)
    rows: Array

    def __init__(self, rows: Array) -> None:
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "shape", rows.shape[1:])

    def infer_shape(self) -> Shape:
        """Return the shape of one row."""
        shape: Shape = self.rows.shape[1:]
        return shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the rows of the tokens."""
        return self.rows[run.positions]


def compute(value: Value, weights: Mapping[str, Array] | None = None, sizes: list[int] | None = None) -> Any:
    """Evaluate an operator with `FixedRows` inputs; check its result against its shape rule.

    ``sizes`` are the numbers of tokens that are evaluated at once; by default it is all of them.
    """
    given = _given(value)
    assert given, "the operator has no given inputs"
    n_tokens, graph = len(given[0].rows), Graph(value, None, 1)
    run, state = Evaluator(graph, (weights or {}).__getitem__), TextState(graph, n_tokens)
    parts = [run([0] * n, state, value)[0] for n in sizes or [n_tokens]]
    if not isinstance(parts[0], np.ndarray):
        return parts[-1]
    result = np.concatenate(parts)
    assert result.shape == (n_tokens, *value.shape), "the shape rule disagrees with the evaluation"
    return result


def _given(value: Value) -> list[FixedRows]:
    if isinstance(value, FixedRows):
        return [value]
    return [one for part in value.inputs() if not isinstance(part, Input) for one in _given(part)]
