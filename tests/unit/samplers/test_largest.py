"""`largest_indices` equals a full sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llamafw import largest_indices


@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 60_000),
    n=st.integers(0, 3000),
    levels=st.sampled_from([1, 3, 1000, 10**9]),
)
def test_largest_indices_equal_a_full_sort(seed: int, m: int, n: int, levels: int) -> None:
    values = np.random.default_rng(seed).integers(-levels, levels + 1, m).astype(np.float32)
    expected = np.lexsort((np.arange(m), -values))[:n]
    assert largest_indices(values, n).tolist() == expected.tolist()


def test_minus_infinity_is_sorted_like_other_values() -> None:
    values = np.full(10_000, -np.inf, np.float32)
    values[7777] = 1
    assert largest_indices(values, 3).tolist() == [7777, 0, 1]
