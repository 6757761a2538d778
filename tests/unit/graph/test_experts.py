"""Choosing experts and computing with the chosen ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llamafw.graph import ExpertLinear, Gather, GraphError, GroupMask, SparseMixer, TopK, Weight, WeightedSum
from support.operators import FixedRows, compute

RNG = np.random.default_rng(8)
N, E, K, N_IN, N_OUT = 5, 6, 2, 3, 4
X, W, B = RNG.normal(size=(N, N_IN)), RNG.normal(size=(E, N_OUT, N_IN)), RNG.normal(size=(E, N_OUT))
CHOSEN = np.array([[0, 5], [3, 3], [2, 1], [5, 4], [1, 0]])

WEIGHTS = Weight("w", W.shape), Weight("b", (E, 7))


def test_top_k_orders_by_size_then_by_index() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert compute(TopK(FixedRows(scores), 3)).tolist() == [[1, 2, 3], [0, 1, 2]]


def test_gather_takes_numbers_by_index() -> None:
    scores = RNG.normal(size=(N, E))
    result = compute(Gather(FixedRows(scores), FixedRows(CHOSEN)))
    assert result.tolist() == [[scores[t, e] for e in CHOSEN[t]] for t in range(N)]


def test_group_mask_keeps_the_best_groups() -> None:
    scores = np.array([[5.0, 0.0, 3.0, 3.0, 1.0, 1.0], [1.0, 1.0, 9.0, -9.0, 2.0, 1.0]])
    result = compute(GroupMask(FixedRows(scores), n_groups=3, n_used=2))
    hidden = [[False, False, False, False, True, True], [False, False, True, True, False, False]]
    assert (result == -np.inf).tolist() == hidden
    np.testing.assert_array_equal(result[np.isfinite(result)], scores[np.isfinite(result)])


def test_group_mask_adds_up_the_best_numbers_of_a_group() -> None:
    scores = np.array([[5.0, 0.0, 3.0, 3.0, 1.0, 1.0]])
    by_one, by_two = (compute(GroupMask(FixedRows(scores), n_groups=3, n_used=1, n_best=n))[0] for n in (1, 2))
    assert by_one.tolist() == [5.0, 0.0, *[-np.inf] * 4]
    assert by_two.tolist() == [-np.inf, -np.inf, 3.0, 3.0, -np.inf, -np.inf]


@settings(deadline=None, max_examples=50)
@given(x=arrays(np.float64, (3, 5), elements=st.integers(-60, 60).map(lambda n: n / 8)), k=st.integers(1, 5))
def test_sparse_mixer_is_a_softmax_over_close_numbers_that_are_left(x: Any, k: int) -> None:
    order = np.argsort(-x, -1, kind="stable")[:, :k]
    result = compute(SparseMixer(FixedRows(x), FixedRows(order), jitter=0.15))
    for row, chosen, weights in zip(x, order, result, strict=True):
        for rank, e in enumerate(chosen):
            left = [row[j] for j in range(5) if j not in chosen[:rank]]
            close = [n for n in left if row[e] - n <= 0.3 * max(abs(n), row[e])]
            assert weights[rank] == pytest.approx(np.exp(row[e]) / np.exp(close).sum(), rel=1e-12)


def test_sparse_mixer_gives_a_number_without_close_ones_the_whole_weight() -> None:
    scores = np.array([[2.0, 1.0, 1.97, -3.0], [-1.0, -1.01, -5.0, -1.5], [0.0, 0.0, -1.0, -1.0]])
    result = compute(SparseMixer(FixedRows(scores), FixedRows(np.array([[0, 2], [0, 1], [0, 1]]))))
    pair = [1 / (1 + np.exp(-0.03)), 1 / (1 + np.exp(-0.01)), 0.5]
    np.testing.assert_allclose(result, [[share, 1.0] for share in pair])


@pytest.mark.parametrize("per_expert", [True, False])
def test_expert_linear_uses_the_chosen_experts(per_expert: bool) -> None:
    rows = RNG.normal(size=(N, K, N_IN)) if per_expert else X
    scale = RNG.normal(size=E)
    operator = ExpertLinear(
        FixedRows(rows), FixedRows(CHOSEN), Weight("w", W.shape), Weight("b", B.shape), Weight("s", scale.shape)
    )
    result = compute(operator, {"w": W, "b": B, "s": scale})
    for t in range(N):
        for i, e in enumerate(CHOSEN[t]):
            row = rows[t, i] if per_expert else rows[t]
            np.testing.assert_allclose(result[t, i], scale[e] * W[e] @ row + B[e])


def test_weighted_sum_adds_the_parts() -> None:
    parts, weights = RNG.normal(size=(N, K, N_OUT)), RNG.normal(size=(N, K))
    result = compute(WeightedSum(FixedRows(parts), FixedRows(weights)))
    for t in range(N):
        np.testing.assert_allclose(result[t], weights[t, 0] * parts[t, 0] + weights[t, 1] * parts[t, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(FixedRows(X), 4), "does not have 4 numbers"),
        (lambda: Gather(FixedRows(W[:, 0:1]), FixedRows(CHOSEN)), "cannot be indexed"),
        (lambda: GroupMask(FixedRows(X), 2, 1), "1 of 2 groups"),
        (lambda: GroupMask(FixedRows(X), 1, 1, n_best=4), "the 4 best do not fit groups of 3"),
        (lambda: SparseMixer(FixedRows(X[:, :1]), FixedRows(CHOSEN)), r"\(2,\) do not fit a row of shape \(1,\)"),
        (lambda: ExpertLinear(FixedRows(X), FixedRows(CHOSEN), *WEIGHTS), "'b' has shape"),
        (lambda: ExpertLinear(FixedRows(X), FixedRows(CHOSEN), WEIGHTS[0], None, WEIGHTS[1]), "'b' has shape"),
        (lambda: ExpertLinear(FixedRows(X), FixedRows(CHOSEN), Weight("w", (E, N_OUT, 7))), "'w' has shape"),
        (lambda: WeightedSum(FixedRows(RNG.normal(size=(N, 3, 2))), FixedRows(CHOSEN)), "do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_graph_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make()
