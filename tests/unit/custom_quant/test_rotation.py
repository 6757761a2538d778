"""The operator computes the transform of its definition, in float64 and in the Numba backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llamafw import graph as g
from llamafw.testing.conformance import OperatorConformance
from llamafw_backends.custom_quant.hadamard import Hadamard
from support import ternary
from support.operators import FixedRows, compute


class TestForward(OperatorConformance):
    name = "hadamard"
    inputs = {"x": (6, 32)}
    options = {"signs": np.random.default_rng(0).choice([-1, 1], 64).astype(np.int8)}
    tolerance = 1e-6


class TestInverse(TestForward):
    options = {**TestForward.options, "inverse": True}


class TestOneLargeBlock(TestForward):
    inputs = {"x": (1, 1024)}
    options = {"signs": np.random.default_rng(1).choice([-1, 1], 1024).astype(np.int8)}


class TestSmallBlocks(TestForward):
    inputs = {"x": (16, 2)}
    options = {"signs": np.random.default_rng(2).choice([-1, 1], 32).astype(np.int8)}


def apply(rows: Any, n: int, signs: Any, *, inverse: bool = False) -> Any:
    """Return rows that the operator has rotated."""
    blocks = FixedRows(rows.reshape(len(rows), -1, n))
    return compute(Hadamard(blocks, signs, inverse)).reshape(rows.shape)


@pytest.mark.parametrize(("n", "width"), [(8, 8), (16, 48), (512, 1024), (1024, 5120), (2048, 2048), (4096, 4096)])
def test_transform_is_the_dense_matrix(n: int, width: int) -> None:
    rng = np.random.default_rng(0)
    x, signs = rng.standard_normal((2, width)), rng.choice([-1, 1], width).astype(np.int8)
    expected = ternary.rotate(x, n, signs)
    np.testing.assert_allclose(apply(x, n, signs), expected, atol=1e-12)
    np.testing.assert_allclose(apply(expected, n, signs, inverse=True), x, atol=1e-12)


def test_forward_and_inverse_are_not_the_same() -> None:
    rng = np.random.default_rng(1)
    x, signs = rng.standard_normal((2, 32)), rng.choice([-1, 1], 32).astype(np.int8)
    assert np.abs(apply(x, 16, signs) - apply(x, 16, signs, inverse=True)).max() > 0.1


@pytest.mark.parametrize(
    ("shape", "n_signs"), [((4, 12), 48), ((48,), 48), ((4, 16), 48), ((4, 16), 8), ((4, 16), 0), ((4, 0), 16)]
)
def test_sizes_that_do_not_fit_are_graph_errors(shape: tuple[int, ...], n_signs: int) -> None:
    with pytest.raises(g.GraphError):
        Hadamard(FixedRows(np.zeros((1, *shape))), np.ones(n_signs, np.int8))
