"""The suite for drafters names the rule that a drafter breaks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import DraftRequest
from llamafw.testing.conformance import DrafterConformance
from llamafw_plugins.drafters.ngram_map_k import NgramMapK
from support.conformance import assert_fails, suite


class Base(NgramMapK):
    """A drafter that follows the rules."""

    def __init__(self) -> None:
        super().__init__(2, 8)


def made(drafter: type[Any]) -> Any:
    return suite(DrafterConformance, lambda context: drafter())


@pytest.fixture
def check(tiny_model: Path) -> Any:
    """Return a function that checks that a test passes with a right drafter, and fails with another."""

    def check_test(name: str, wrong: type[Any], message: str) -> None:
        getattr(made(Base), name)(tiny_model)
        assert_fails(getattr(made(wrong), name), message, tiny_model)

    return check_test


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda n: np.zeros(n + 1, np.int32), "tokens, but n_max is 1"),
        (lambda n: np.zeros(n), "not an int32 array"),
        (lambda n: np.zeros((1, n), np.int32), "not an int32 array"),
        (lambda n: [1] * n, "not an int32 array"),
        (lambda n: np.full(n, -1, np.int32), "outside of the vocabulary"),
        (lambda n: np.full(n, 10**6, np.int32), "outside of the vocabulary"),
    ],
    ids=["long", "float", "two dimensions", "list", "negative", "high"],
)
def test_invalid_drafts_are_reported(check: Any, result: Any, message: str) -> None:
    class Wrong(Base):
        def draft(self, requests: Sequence[DraftRequest]) -> Any:
            return [result(request.n_max) for request in requests]

    check("test_drafts_are_valid", Wrong, message)


def test_missing_draft_is_reported(check: Any) -> None:
    class Wrong(Base):
        def draft(self, requests: Sequence[DraftRequest]) -> Any:
            return []

    check("test_drafts_are_valid", Wrong, "0 drafts for one request")


def test_memory_of_the_text_before_is_reported(check: Any) -> None:
    class Wrong(Base):
        n_calls = 0

        def draft(self, requests: Sequence[DraftRequest]) -> Any:
            self.n_calls += 1
            return [np.array([self.n_calls], np.int32) for _ in requests]

    check("test_texts_may_grow_and_change", Wrong, "after other texts")


def test_dependence_on_other_responses_is_reported(check: Any) -> None:
    class Wrong(Base):
        def draft(self, requests: Sequence[DraftRequest]) -> Any:
            return [np.array([len(requests)], np.int32) for _ in requests]

    check("test_responses_are_independent", Wrong, "together with others")


def test_view_of_the_text_is_reported(check: Any) -> None:
    class Wrong(Base):
        def draft(self, requests: Sequence[DraftRequest]) -> Any:
            return [request.tokens[: request.n_max] for request in requests]

    check("test_text_is_not_changed", Wrong, "return a copy")


def test_changed_text_is_reported(check: Any) -> None:
    class Wrong(Base):
        def draft(self, requests: Sequence[DraftRequest]) -> Any:
            requests[0].tokens[0] += 1
            return super().draft(requests)

    check("test_text_is_not_changed", Wrong, "changed the tokens")


def test_finish_that_needs_a_draft_is_reported(tiny_model: Path) -> None:
    class Wrong(Base):
        def finish(self, slot: int, drawn: Any) -> None:
            raise KeyError(slot)

    with pytest.raises(KeyError):
        made(Wrong).test_slots_are_used_again(tiny_model)
