"""Convolution, linear attention and selective scan, against loops over tokens and heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw.graph import Conv, GraphError, LinearAttention, SelectiveScan, Weight
from support.operators import FixedRows, compute

RNG = np.random.default_rng(5)
N, H, DK, DV = 7, 3, 4, 5
Q, K, V = RNG.normal(size=(N, H, DK)), RNG.normal(size=(N, H, DK)), RNG.normal(size=(N, H, DV))
BETA, GATE = RNG.uniform(0.1, 0.9, (N, H)), -RNG.uniform(0, 2, (N, H))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize(("biased", "sizes"), [(True, [7]), (False, [7]), (True, [1] * 7), (True, [2, 1, 4])])
def test_conv_sees_the_last_k_inputs(k: int, biased: bool, sizes: list[int]) -> None:
    x, w, b = RNG.normal(size=(N, 3)), RNG.normal(size=(3, k)), RNG.normal(size=3)
    conv = Conv(FixedRows(x), Weight("w", (3, k)), Weight("b", (3,)) if biased else None)
    result = compute(conv, {"w": w, "b": b}, sizes)
    assert conv.state_shape == (k - 1, 3)
    for t in range(N):
        for c in range(3):
            inputs = [x[t - k + 1 + j, c] if t - k + 1 + j >= 0 else 0.0 for j in range(k)]
            np.testing.assert_allclose(result[t, c], sum(np.array(inputs) * w[c]) + biased * b[c])


@pytest.mark.parametrize(("gates", "sizes"), [("head", [7]), ("channel", [7]), ("head", [1] * 7), ("head", [2, 5])])
def test_delta_rule_matches_its_recurrence(gates: str, sizes: list[int]) -> None:
    gate = GATE if gates == "head" else -RNG.uniform(0, 2, (N, H, DK))
    operator = LinearAttention(
        FixedRows(Q), FixedRows(K), FixedRows(V), FixedRows(gate), beta=FixedRows(BETA), scale=0.5
    )
    result = compute(operator, sizes=sizes)
    assert operator.state_shape == (H, DK, DV)
    for h in range(H):
        state = np.zeros((DK, DV))
        for t in range(N):
            state = np.diag(np.exp(np.broadcast_to(gate[t, h], DK))) @ state
            error = V[t, h] - state.T @ K[t, h]
            state = state + BETA[t, h] * np.outer(K[t, h], error)
            np.testing.assert_allclose(result[t, h], 0.5 * state.T @ Q[t, h])


def test_delta_rule_stores_a_value_exactly_with_beta_1() -> None:
    """After a write with beta 1 and a key of length 1, reading with this key returns the value."""
    key = K / np.linalg.norm(K, axis=-1, keepdims=True)
    ones = np.ones((N, H))
    operator = LinearAttention(FixedRows(key), FixedRows(key), FixedRows(V), FixedRows(GATE), beta=FixedRows(ones))
    np.testing.assert_allclose(compute(operator), V)


def test_decay_rule_is_a_decayed_sum() -> None:
    result = compute(LinearAttention(FixedRows(Q), FixedRows(K), FixedRows(V), FixedRows(GATE), rule="decay"))
    for t in range(N):
        for h in range(H):
            terms = [np.exp(GATE[s + 1 : t + 1, h].sum()) * (K[s, h] @ Q[t, h]) * V[s, h] for s in range(t + 1)]
            np.testing.assert_allclose(result[t, h], sum(terms))


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4]])
def test_selective_scan_matches_its_closed_form(sizes: list[int]) -> None:
    x, delta = RNG.normal(size=(N, 3)), RNG.uniform(0.1, 1, (N, 3))
    b, c, a, d = RNG.normal(size=(N, 2)), RNG.normal(size=(N, 2)), -RNG.uniform(0.1, 2, (3, 2)), RNG.normal(size=3)
    scan = SelectiveScan(
        FixedRows(x), FixedRows(delta), FixedRows(b), FixedRows(c), Weight("a", (3, 2)), Weight("d", (3,))
    )
    result = compute(scan, {"a": a, "d": d}, sizes)
    assert scan.state_shape == (3, 2)
    for t in range(N):
        for i in range(3):
            terms = [
                np.exp(a[i] * delta[s + 1 : t + 1, i].sum()) @ (b[s] * c[t]) * delta[s, i] * x[s, i]
                for s in range(t + 1)
            ]
            np.testing.assert_allclose(result[t, i], sum(terms) + d[i] * x[t, i])


def scan_with(a: Weight, d: Weight) -> SelectiveScan:
    """Return a scan of three channels with a state of two numbers each."""
    x, b = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2))
    return SelectiveScan(FixedRows(x), FixedRows(x), FixedRows(b), FixedRows(b), a, d)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv(FixedRows(Q), Weight("w", (3, 2))), "'w' has shape"),
        (lambda: Conv(FixedRows(BETA), Weight("w", (3, 2)), Weight("b", (2,))), "'b' has shape"),
        (
            lambda: LinearAttention(FixedRows(Q), FixedRows(V), FixedRows(V), FixedRows(GATE), "decay"),
            "of q, k and v do not fit",
        ),
        (lambda: LinearAttention(FixedRows(Q), FixedRows(K), FixedRows(V), FixedRows(V), "decay"), "gate of shape"),
        (lambda: LinearAttention(FixedRows(Q), FixedRows(K), FixedRows(V), FixedRows(GATE)), "the delta rule needs it"),
        (
            lambda: LinearAttention(FixedRows(Q), FixedRows(K), FixedRows(V), FixedRows(GATE), beta=FixedRows(V)),
            "beta of shape",
        ),
        (
            lambda: LinearAttention(FixedRows(Q), FixedRows(K), FixedRows(V), FixedRows(GATE), "decays"),  # type: ignore[arg-type]  # not a rule
            "the rule 'decays' is unknown; did you mean 'decay'",
        ),
        (lambda: scan_with(Weight("a", (2, 3)), Weight("d", (3,))), "'a' has shape"),
        (lambda: scan_with(Weight("a", (3,)), Weight("d", (3,))), "'a' has shape"),
        (lambda: scan_with(Weight("a", (3, 2)), Weight("d", (2,))), "the inputs have"),
    ],
)
def test_shapes_that_do_not_fit_are_graph_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make()
