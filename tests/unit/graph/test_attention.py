"""Rotary positions, attention and its masks, against explicit loops over tokens and heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw.graph import (
    MAX_DISTANCE,
    Attention,
    Cache,
    GraphError,
    KeyValue,
    Rope,
    Rotation,
    Weight,
    alibi_slopes,
    bias_by_distance,
)
from support.operators import FixedRows, compute

RNG = np.random.default_rng(3)
N, N_HEAD, N_KV, SIZE, V_SIZE = 9, 4, 2, 6, 5
Q, K, V = RNG.normal(size=(N, N_HEAD, SIZE)), RNG.normal(size=(N, N_KV, SIZE)), RNG.normal(size=(N, N_KV, V_SIZE))


def expected(seen: Callable[[int, int], bool], score: Callable[[int, int, float], float], sink: Any = None) -> Any:
    """Return the attention of every query, computed number by number."""
    out = np.zeros((N, N_HEAD, V_SIZE))
    for t in range(N):
        for h in range(N_HEAD):
            keys = [s for s in range(N) if seen(t, s)]
            scores = [score(h, t - s, float(Q[t, h] @ K[s, h // 2])) for s in keys]
            weights = [math.exp(value) for value in scores]
            total = sum(weights) + (math.exp(sink[h]) if sink is not None else 0)
            out[t, h] = sum(w / total * V[s, h // 2] for w, s in zip(weights, keys, strict=True))
    return out


def causal(t: int, s: int) -> bool:
    return s <= t


def past(kind: type[Cache | KeyValue] = Cache) -> Any:
    return kind(FixedRows(K), FixedRows(V))


def test_attention_is_causal_with_a_cache() -> None:
    result = compute(Attention(FixedRows(Q), past(), 0.3))
    np.testing.assert_allclose(result, expected(causal, lambda h, d, x: 0.3 * x))


def test_attention_sees_the_whole_text_without_a_cache() -> None:
    result = compute(Attention(FixedRows(Q), past(KeyValue), 0.3))
    np.testing.assert_allclose(result, expected(lambda t, s: True, lambda h, d, x: 0.3 * x))


@pytest.mark.parametrize(
    ("kind", "store", "seen"),
    [
        ("sliding", Cache, lambda t, s: 0 <= t - s < 4),
        ("chunked", Cache, lambda t, s: s <= t and s // 4 == t // 4),
        ("symmetric", KeyValue, lambda t, s: abs(t - s) <= 2),
    ],
)
def test_windows_limit_what_a_token_sees(kind: Any, store: Any, seen: Callable[[int, int], bool]) -> None:
    result = compute(Attention(FixedRows(Q), past(store), 0.5, window=4, window_kind=kind))
    np.testing.assert_allclose(result, expected(seen, lambda h, d, x: 0.5 * x))


def test_softcap_limits_the_scores() -> None:
    result = compute(Attention(FixedRows(Q), past(), 2.0, softcap=1.5))
    np.testing.assert_allclose(result, expected(causal, lambda h, d, x: 1.5 * math.tanh(2 * x / 1.5)))


def test_sinks_take_a_share_of_the_attention() -> None:
    sinks = np.array([0.5, -1.0, 2.0, 0.0])
    result = compute(Attention(FixedRows(Q), past(), 0.3, sinks=Weight("sinks", (4,))), {"sinks": sinks})
    np.testing.assert_allclose(result, expected(causal, lambda h, d, x: 0.3 * x, sinks))


def test_alibi_penalises_distance() -> None:
    slopes = (0.5, 0.25, 0.125, 0.0625)
    result = compute(Attention(FixedRows(Q), past(), 0.3, alibi=slopes))
    np.testing.assert_allclose(result, expected(causal, lambda h, d, x: 0.3 * x - slopes[h] * abs(d)))


def test_slopes_of_alibi_are_those_of_the_paper() -> None:
    """For 8 heads the paper has 1/2 to 1/256; MPT's code, for a number that is no power of two, takes every second."""
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(6) == (2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3)
    assert alibi_slopes(2, 4.0) == (2.0**-2, 2.0**-4)


@pytest.mark.parametrize("store", [Cache, KeyValue])
def test_position_bias_depends_on_distance_and_direction(store: Any) -> None:
    """With 8 buckets, distances 0 and 1 have one each, and 2 to 15 share the next; keys after a query have 4 to 7."""
    table = RNG.normal(size=(8, N_HEAD))
    result = compute(
        Attention(FixedRows(Q), past(store), 0.3, position_bias=Weight("bias", (8, N_HEAD))), {"bias": table}
    )

    def biased(h: int, d: int, x: float) -> float:
        bucket = min(abs(d), 2) + (4 if d < 0 else 0)
        return 0.3 * x + float(table[bucket, h])

    np.testing.assert_allclose(result, expected(causal if store is Cache else lambda t, s: True, biased))


def test_buckets_of_distances_are_those_of_transformers() -> None:
    """The numbers are those of ``T5Attention._relative_position_bucket``, both directions, 32 buckets."""
    before = {0: 0, 1: 1, 7: 7, 8: 8, 15: 9, 16: 10, 63: 13, 64: 14, 90: 14, 91: 15, 127: 15, 128: 15}
    after = {1: 17, 7: 23, 8: 24, 11: 24, 12: 25, 45: 28, 46: 29, 127: 31, 128: 31}
    (buckets,) = bias_by_distance(np.arange(32)[:, None])
    assert buckets.shape == (2 * MAX_DISTANCE + 1,)
    assert {distance: buckets[MAX_DISTANCE - distance] for distance in before} == before
    assert {distance: buckets[MAX_DISTANCE + distance] for distance in after} == after


def test_temperature_can_count_tokens() -> None:
    result = compute(Attention(FixedRows(Q), past(), 0.3, temperature=(0.1, 2), temperature_offset=1))
    growth = [1 + 0.1 * math.log(1 + (t + 1) // 2) for t in range(N)]
    rows = [compute(Attention(FixedRows(Q), past(), 0.3 * one))[t] for t, one in enumerate(growth)]
    np.testing.assert_allclose(result, rows)


def test_temperature_grows_with_the_position() -> None:
    result = compute(Attention(FixedRows(Q), past(), 0.3, temperature=(0.1, 2)))
    for t in range(N):
        scaled = Q[t] * (1 + 0.1 * math.log(1 + t // 2))
        for h in range(N_HEAD):
            scores = np.array([0.3 * scaled[h] @ K[s, h // 2] for s in range(t + 1)])
            weights = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(result[t, h], weights @ V[: t + 1, h // 2])


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("offset", [0, 2])
def test_rope_rotates_pairs_as_complex_numbers(interleaved: bool, offset: int) -> None:
    frequencies = np.array([1.0, 0.1])
    result = compute(Rope(FixedRows(Q), Rotation(frequencies, 1.25, interleaved, offset)))
    pairs = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    for t in range(N):
        for h in range(N_HEAD):
            row = Q[t, h].copy()
            for (a, b), frequency in zip(pairs, frequencies, strict=True):
                number = complex(row[offset + a], row[offset + b]) * 1.25 * np.exp(1j * t * frequency)
                row[offset + a], row[offset + b] = number.real, number.imag
            np.testing.assert_allclose(result[t, h], row)


def test_rope_makes_scores_depend_on_distance_only() -> None:
    rotation = Rotation(np.array([1.0, 0.3, 0.05]))
    same = np.repeat(Q[:1], N, 0)
    rotated = compute(Rope(FixedRows(same), rotation))
    scores = np.einsum("qhs,khs->hqk", rotated, rotated)
    for distance in range(N):
        diagonal = np.diagonal(scores, distance, 1, 2)
        np.testing.assert_allclose(diagonal, diagonal[:, :1].repeat(N - distance, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(FixedRows(Q[:, :3]), past(), 1.0), "do not fit"),
        (lambda: Attention(FixedRows(Q[..., :5]), past(), 1.0), "do not fit"),
        (lambda: Attention(FixedRows(Q), past(), 1.0, sinks=Weight("s", (2,))), "'s' has shape"),
        (lambda: Attention(FixedRows(Q), past(), 1.0, alibi=(1.0,)), "1 slopes, but there are 4 heads"),
        (lambda: Attention(FixedRows(Q), past(), 1.0, position_bias=Weight("b", (8, 2))), "'b' has shape"),
        (lambda: Attention(FixedRows(Q), past(), 1.0, window=0), "the window is 0"),
        (
            lambda: Attention(FixedRows(Q), past(), 1.0, window=4, window_kind="slidin"),  # type: ignore[arg-type]  # not one
            "'slidin' is unknown; did you mean 'sliding'",
        ),
        (lambda: Attention(FixedRows(Q), past(), 1.0, softcap=0.0), "softcap is 0.0"),
        (lambda: Cache(FixedRows(K), FixedRows(Q)), "do not fit"),
        (lambda: Rope(FixedRows(Q), Rotation(np.ones(4))), "8 numbers of a row"),
    ],
)
def test_shapes_that_do_not_fit_are_graph_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make()
