"""Operators that rearrange a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw.graph import Concat, GraphError, Repeat, Reshape, Slice, concat, flat, heads, split
from support.operators import FixedRows, compute

X = np.arange(24.0).reshape(2, 12)


def test_heads_and_flat_are_inverse() -> None:
    divided = heads(FixedRows(X), 3)
    assert divided.shape == (3, 4)
    np.testing.assert_array_equal(compute(divided), X.reshape(2, 3, 4))
    np.testing.assert_array_equal(compute(flat(divided)), X)


def test_split_and_concat_are_inverse() -> None:
    parts = split(FixedRows(X), 5, 1, 6)
    assert [part.shape for part in parts] == [(5,), (1,), (6,)]
    np.testing.assert_array_equal(compute(parts[1]), X[:, 5:6])
    np.testing.assert_array_equal(compute(concat(*parts)), X)


def test_concat_repeats_a_single_head() -> None:
    many, single = heads(FixedRows(X), 3), heads(FixedRows(-X[:, :2]), 1)
    result = compute(concat(many, single))
    assert result.shape == (2, 3, 6)
    for head in range(3):
        np.testing.assert_array_equal(result[:, head, :4], X.reshape(2, 3, 4)[:, head])
        np.testing.assert_array_equal(result[:, head, 4:], -X[:, :2])


def test_repeat_in_groups_and_in_tiles() -> None:
    two = heads(FixedRows(X), 2)
    a, b = X[:, :6], X[:, 6:]
    np.testing.assert_array_equal(compute(Repeat(two, 2)), np.stack([a, a, b, b], 1))
    np.testing.assert_array_equal(compute(Repeat(two, 2, tiled=True)), np.stack([a, b, a, b], 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Reshape(x, (5, 2)), r"cannot have the shape \(5, 2\)"),
        (lambda x: heads(x, 5), "cannot be divided into 5 heads"),
        (lambda x: Slice(x, 4, 13), "no slice from 4 to 13"),
        (lambda x: Slice(x, 3, 3), "no slice from 3 to 3"),
        (lambda x: split(x, 5, 6), r"cannot be split into \(5, 6\)"),
        (lambda x: Concat((heads(x, 3), heads(x, 2))), "cannot be concatenated"),
        (lambda x: Repeat(x, 2), "it must have heads"),
    ],
)
def test_impossible_arrangements_are_graph_errors(make: Callable[[FixedRows], Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make(FixedRows(X))
