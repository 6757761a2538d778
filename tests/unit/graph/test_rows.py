"""Operators on single rows: their shape rules and their evaluation against explicit loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llamafw.graph import (
    Activation,
    Add,
    Clamp,
    EmbeddingLookup,
    GraphError,
    L2Norm,
    LayerNorm,
    LayerOutput,
    Linear,
    Mul,
    Normalise,
    RMSNorm,
    Scale,
    Softmax,
    Weight,
    WeightAdd,
    WeightMul,
)
from support.operators import FixedRows, compute

FLOATS = st.floats(-50, 50, allow_subnormal=False)
QUIET = settings(deadline=None, max_examples=30)


@st.composite
def rows(draw: Any, n_axes: int = 1) -> Any:
    """Draw the rows of a few tokens, ``(n_tokens, …)``."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * (n_axes + 1)))
    return draw(arrays(np.float64, shape, elements=FLOATS))


def noise(*shape: int) -> Any:
    return np.random.default_rng(math.prod(shape)).normal(size=shape)


def weight(name: str, *shape: int) -> Weight:
    return Weight(name, shape)


@QUIET
@given(x=rows(), n_out=st.integers(1, 4), biased=st.booleans())
def test_linear_is_a_matrix_product(x: Any, n_out: int, biased: bool) -> None:
    w, b = noise(n_out, x.shape[1]), noise(n_out)
    bias = weight("b", n_out) if biased else None
    result = compute(Linear(FixedRows(x), weight("w", *w.shape), bias), {"w": w, "b": b})
    expected = [[sum(w[o, i] * row[i] for i in range(len(row))) + biased * b[o] for o in range(n_out)] for row in x]
    np.testing.assert_allclose(result, expected, atol=1e-9)


def test_linear_has_a_matrix_per_head() -> None:
    x, w = noise(3, 2, 4), noise(2, 5, 4)
    result = compute(Linear(FixedRows(x), weight("w", 2, 5, 4)), {"w": w})
    assert result.shape == (3, 2, 5)
    for t in range(3):
        for h in range(2):
            np.testing.assert_allclose(result[t, h], w[h] @ x[t, h])


def test_linear_scales_the_product_before_the_bias() -> None:
    x, w, b = noise(2, 3), noise(4, 3), noise(4)
    linear = Linear(FixedRows(x), weight("w", 4, 3), weight("b", 4), weight("s", 1))
    np.testing.assert_allclose(compute(linear, {"w": w, "b": b, "s": np.array([3.0])}), 3 * x @ w.T + b)


def test_linear_uses_selected_rows_of_a_weight() -> None:
    x, w = noise(2, 3), noise(6, 3)
    part = Linear(FixedRows(x), weight("w", 6, 3).rows(2, 5))
    np.testing.assert_allclose(compute(part, {"w": w}), x @ w[2:5].T)


def test_embedding_looks_up_rows() -> None:
    table = noise(7, 3)
    ids = FixedRows(np.array([4, 0, 6, 4]))
    np.testing.assert_array_equal(compute(EmbeddingLookup(ids, weight("w", 7, 3)), {"w": table}), table[[4, 0, 6, 4]])


@QUIET
@given(x=rows(n_axes=2), eps=st.sampled_from([1e-6, 0.1]))
def test_rms_norm_matches_its_formula(x: Any, eps: float) -> None:
    w = noise(x.shape[-1])
    result = compute(RMSNorm(FixedRows(x), weight("w", x.shape[-1]), eps), {"w": w})
    for index in np.ndindex(x.shape[:-1]):
        row = x[index]
        scale = 1 / math.sqrt(sum(value * value for value in row) / len(row) + eps)
        np.testing.assert_allclose(result[index], row * scale * w, atol=1e-12)


def test_rms_norm_of_groups_normalises_each_group() -> None:
    x = noise(3, 6)
    result = compute(RMSNorm(FixedRows(x), None, 1e-6, groups=2))
    alone = [compute(RMSNorm(FixedRows(x[:, part]), None, 1e-6)) for part in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(result, np.concatenate(alone, -1))


@QUIET
@given(x=rows(), eps=st.sampled_from([1e-5, 0.1]))
def test_layer_norm_matches_its_formula(x: Any, eps: float) -> None:
    w, b = noise(x.shape[-1]), noise(x.shape[-1]) + 1
    result = compute(LayerNorm(FixedRows(x), weight("w", len(w)), weight("b", len(b)), eps), {"w": w, "b": b})
    for t, row in enumerate(x):
        mean = math.fsum(row) / len(row)
        variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
        np.testing.assert_allclose(result[t], (row - mean) / math.sqrt(variance + eps) * w + b, atol=1e-9)


def test_l2_norm_has_length_1() -> None:
    x = noise(4, 2, 8)
    np.testing.assert_allclose(np.linalg.norm(compute(L2Norm(FixedRows(x), 0.0)), axis=-1), 1)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (2, 3)])
def test_mul_broadcasts_single_numbers(shape: tuple[int, ...]) -> None:
    a, b = noise(4, 2, 3), noise(4, *shape) + 2
    result = compute(Mul(FixedRows(a), FixedRows(b)))
    for t in range(4):
        np.testing.assert_allclose(result[t], a[t] * b[t])


def test_elementwise_operators_match_numpy() -> None:
    a, b, w = noise(4, 3), noise(4, 3) * 2, noise(3)
    np.testing.assert_array_equal(compute(Add(FixedRows(a), FixedRows(b))), a + b)
    np.testing.assert_array_equal(compute(Scale(FixedRows(a), 0.25)), a * 0.25)
    np.testing.assert_array_equal(compute(Clamp(FixedRows(a), -0.5, 0.2)), np.clip(a, -0.5, 0.2))
    np.testing.assert_array_equal(compute(WeightMul(FixedRows(a), weight("w", 3)), {"w": w}), a * w)
    np.testing.assert_array_equal(compute(WeightAdd(FixedRows(a), weight("w", 3)), {"w": w}), a + w)
    heads, per_head = noise(4, 2, 3), noise(2, 1)
    product = compute(WeightMul(FixedRows(heads), weight("w", 2, 1)), {"w": per_head})
    np.testing.assert_array_equal(product, heads * per_head)
    np.testing.assert_array_equal(compute(LayerOutput(FixedRows(a), 3)), a)


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "relu_squared": lambda x: max(x, 0.0) ** 2,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "exp": math.exp,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_functions_match_their_formulas(name: Any) -> None:
    x = np.linspace(-8, 8, 33).reshape(11, 3)
    expected = [[FUNCTIONS[name](value) for value in row] for row in x]
    np.testing.assert_allclose(compute(Activation(FixedRows(x), name)), expected, rtol=1e-12, atol=1e-14)


@QUIET
@given(x=rows())
def test_softmax_and_normalise_are_shares(x: Any) -> None:
    shares = compute(Softmax(FixedRows(x)))
    np.testing.assert_allclose(shares.sum(-1), 1)
    for t, row in enumerate(x):
        total = math.fsum(math.exp(value - max(row)) for value in row)
        np.testing.assert_allclose(shares[t], [math.exp(value - max(row)) / total for value in row], atol=1e-12)
    positive = np.abs(x) + 1
    np.testing.assert_allclose(compute(Normalise(FixedRows(positive))), positive / positive.sum(-1, keepdims=True))


def test_normalise_limits_the_sum() -> None:
    x = np.array([[0.01, 0.03]])
    np.testing.assert_allclose(compute(Normalise(FixedRows(x), low=0.5)), x / 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Linear(x, weight("w", 4, 9)), r"'w' has shape \(4, 9\), but its input has \(2, 3\)"),
        (lambda x: Linear(x, weight("w", 5, 4, 3)), "'w' has shape"),
        (lambda x: Linear(x, weight("w", 3)), "'w' has shape .* not a matrix"),
        (lambda x: Linear(x, weight("w", 1, 5, 4, 3)), "'w' has shape .* not a matrix"),
        (lambda x: Linear(x, weight("w", 4, 3), weight("b", 3)), "'b' has shape"),
        (lambda x: EmbeddingLookup(x, weight("w", 4, 9)), "not a matrix of embeddings"),
        (lambda x: RMSNorm(x, weight("w", 4), 1e-6), "'w' has shape"),
        (lambda x: RMSNorm(x, None, 1e-6, groups=2), "3 numbers cannot be divided into 2 groups"),
        (lambda x: LayerNorm(x, weight("w", 3), weight("b", 2), 1e-6), "'b' has shape"),
        (lambda x: Add(x, FixedRows(noise(1, 3))), "cannot be added"),
        (lambda x: Mul(x, FixedRows(noise(1, 2))), "cannot be multiplied"),
        (lambda x: WeightMul(x, weight("w", 2)), "'w' has shape"),
        (lambda x: WeightAdd(x, weight("w", 2)), "'w' has shape"),
        (lambda x: Clamp(x, 1, -1), "above the upper limit"),
        (lambda x: Activation(x, "swoosh"), "'swoosh'"),  # type: ignore[arg-type]  # not a function
    ],
)
def test_operands_that_do_not_fit_are_graph_errors(make: Callable[[FixedRows], Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make(FixedRows(noise(1, 2, 3)))
