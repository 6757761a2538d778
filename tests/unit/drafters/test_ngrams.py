"""The drafters that search for the last tokens in earlier text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import DraftRequest
from llamafw_plugins.drafters.ngram_map_k import NgramMapK
from llamafw_plugins.drafters.ngram_simple import NgramSimple
from llamafw_plugins.drafters.ngrams import continuations

A, B, C, D, X = 1, 2, 3, 4, 9


def array(tokens: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(tokens, np.int32)


def guess(drafter: NgramSimple | NgramMapK, tokens: Sequence[int], n_max: int = 100) -> list[int]:
    (draft,) = drafter.draft([DraftRequest(0, array(tokens), n_max)])
    tokens_of_draft: list[int] = draft.tolist()
    return tokens_of_draft


@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_continuations_are_all_positions_after_the_ngram(tokens: list[int], ngram: list[int]) -> None:
    n = len(ngram)
    expected = [i for i in range(n, len(tokens)) if tokens[i - n : i] == ngram]
    assert continuations(array(tokens), array(ngram)).tolist() == expected


@pytest.mark.parametrize(
    ("tokens", "n_max", "expected"),
    [
        ([A, B, C, D, X, A, B], 3, [C, D, X]),
        ([A, B, C, D, X, A, B], 1, [C]),
        ([A, B, C, X, A, B, D, X, A, B], 2, [D, X]),  # the last occurrence
        ([A, B, C, D, X, A, B], 8, [C, D, X, A, B, C, D, X]),  # at the end of the text it goes on periodically
        ([A, A, A], 3, [A, A, A]),
        ([A, B, C, D, A, C], 3, []),  # no occurrence
        ([A, B], 3, []),  # the text is as short as the n-gram
        ([A], 3, []),
    ],
)
def test_ngram_simple_repeats_what_followed(tokens: list[int], n_max: int, expected: list[int]) -> None:
    assert guess(NgramSimple(2, 8), tokens, n_max) == expected


def test_ngram_simple_has_a_maximum_of_its_own() -> None:
    assert guess(NgramSimple(2, 2), [A, B, C, D, X, A, B]) == [C, D]


def test_ngram_simple_counts_occurrences() -> None:
    once, twice = [A, B, C, A, B], [A, B, C, A, B, D, A, B]
    assert guess(NgramSimple(2, 2, min_hits=2), once) == []
    assert guess(NgramSimple(2, 2, min_hits=2), twice) == [D, A]


def test_ngram_map_k_searches_its_own_text_first() -> None:
    drafter = NgramMapK(2, 3)
    assert guess(drafter, [A, B, C, D, X, A, B]) == [C, D, X]
    drafter.finish(0, array([X, A, B, X, X, X]))
    assert guess(drafter, [A, B, C, D, X, A, B]) == [C, D, X]
    assert guess(drafter, [D, A, B]) == [X, X, X]


def test_ngram_map_k_prefers_the_newest_response() -> None:
    drafter = NgramMapK(2, 3)
    drafter.finish(0, array([A, B, C, C]))
    drafter.finish(1, array([A, B, D]))
    assert guess(drafter, [X, A, B]) == [D]  # guesses end with the response
    assert guess(drafter, [X, D, A]) == []  # and do not begin in one and end in another


def test_ngram_map_k_guesses_as_far_as_occurrences_agree() -> None:
    drafter = NgramMapK(2, 8, min_hits=2)
    drafter.finish(0, array([A, B, C, D, X]))
    assert guess(drafter, [X, A, B]) == []
    drafter.finish(0, array([A, B, C, D, C]))
    assert guess(drafter, [X, A, B]) == [C, D]
    drafter.finish(0, array([A, B, X, X]))  # the last one has no companion
    assert guess(drafter, [X, A, B]) == []


def test_ngram_map_k_forgets_the_oldest_responses() -> None:
    drafter = NgramMapK(2, 8, n_earlier=12)
    drafter.finish(0, array([A, B, C, D]))
    drafter.finish(0, array([X, X, X]))
    assert guess(drafter, [X, A, B]) == [C, D]
    drafter.finish(0, array([X, X, X]))
    assert guess(drafter, [X, A, B]) == []
    drafter.finish(0, array([*range(10, 30), A, B, C]))  # longer than everything that is kept
    assert guess(drafter, [X, A, B]) == [C]


@given(st.lists(st.lists(st.integers(0, 3), max_size=20), max_size=8), st.lists(st.integers(0, 3), max_size=30))
def test_ngram_map_k_never_guesses_a_separator(responses: list[list[int]], tokens: list[int]) -> None:
    drafter = NgramMapK(2, 6, n_earlier=32)
    for response in responses:
        drafter.finish(0, array(response))
    assert -1 not in guess(drafter, [0, *tokens])
