"""Evaluates single operators whose inputs a test provides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llamafw.graph import Array, Evaluation, Input, Shape, Value


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


def compute(value: Value, weights: Mapping[str, Array] | None = None) -> Any:
    """Evaluate an operator with `FixedRows` inputs; check its result against its shape rule."""

    def rows(one: Value) -> Any:
        if isinstance(one, FixedRows):
            return one.rows
        operands = {
            name: [rows(part) for part in operand] if isinstance(operand, tuple) else rows(operand)
            for name, operand in one.operands()
        }
        return one.evaluate(operands, run)

    given = _given(value)
    assert given, "the operator has no given inputs"
    n_tokens = len(given[0].rows)
    run = Evaluation(range(n_tokens), (weights or {}).__getitem__)
    result = rows(value)
    if isinstance(result, np.ndarray):
        assert result.shape == (n_tokens, *value.shape), "the shape rule disagrees with the evaluation"
    return result


def _given(value: Value) -> list[FixedRows]:
    if isinstance(value, FixedRows):
        return [value]
    return [one for part in value.inputs() if not isinstance(part, Input) for one in _given(part)]
