"""The suite for samplers names the rule that a sampler breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw import Candidates
from llamafw.testing.conformance import SamplerConformance
from support.conformance import assert_fails, suite


class DropFirst:
    """A valid sampler that drops the first candidate, if another one is allowed."""

    options = {"drop": {"type": "boolean", "default": True, "description": "Drop one."}}
    truncates = True

    @classmethod
    def create(cls, options: Any, context: Any) -> Any:
        return cls() if options["drop"] else None

    def apply(self, candidates: Candidates) -> None:
        if candidates.logits[1:].max(initial=-np.inf) > -np.inf:
            candidates.ids, candidates.logits = candidates.ids[1:], candidates.logits[1:]

    def accept(self, token: int) -> None:
        pass


def sampler(**members: Any) -> Any:
    return suite(SamplerConformance, type("Broken", (DropFirst,), members))


def sampler_that_changes(attribute: str, change: Callable[[Any], Any]) -> Any:
    def apply(self: Any, candidates: Any) -> None:
        setattr(candidates, attribute, change(getattr(candidates, attribute)))

    return sampler(apply=apply)


def test_valid_sampler_passes(tiny_model: Any) -> None:
    made = sampler()
    made.test_has_all_members_of_its_protocol(tiny_model)
    tests = [name for name in dir(made) if name.startswith("test_") and name not in NEED_FIXTURES]
    assert len(tests) == 7
    for name in tests:
        getattr(made, name)()


NEED_FIXTURES = ("test_has_all_members_of_its_protocol", "test_server_accepts_valid_options_only")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (sampler_that_changes("ids", lambda ids: ids[:0]), "no candidate is left"),
        (sampler_that_changes("ids", lambda ids: ids[:1]), "1 ids but .* logits are left"),
        (sampler_that_changes("ids", lambda ids: ids.astype(np.int64)), "expected int32"),
        (sampler_that_changes("ids", lambda ids: np.full_like(ids, ids[0])), "a token occurs twice"),
        (sampler_that_changes("ids", lambda ids: ids + np.int32(1)), "tokens that were not candidates"),
        (sampler_that_changes("logits", lambda logits: logits.astype(np.float64)), "expected float32"),
        (sampler_that_changes("logits", lambda logits: logits * np.float32(np.nan)), "NaN"),
        (sampler_that_changes("logits", lambda logits: logits / 2), "logits have changed"),
        (sampler_that_changes("sorted", lambda _: True), "the logits do not descend"),
    ],
)
def test_invalid_candidates_are_reported(made: Any, message: str) -> None:
    assert_fails(made.test_apply_leaves_valid_candidates, message)


def test_allowing_forbidden_tokens_is_reported() -> None:
    made = sampler_that_changes("logits", lambda logits: np.nan_to_num(logits, neginf=-9))
    assert_fails(made.test_forbidden_tokens_stay_forbidden, "forbidden tokens are allowed again")
    made = sampler_that_changes("logits", lambda logits: np.full_like(logits, -np.inf))
    assert_fails(made.test_forbidden_tokens_stay_forbidden, "only forbidden tokens are left")


def test_missing_candidates_are_reported_by_all_rules() -> None:
    made = sampler_that_changes("ids", lambda ids: ids[:0])
    assert_fails(made.test_forbidden_tokens_stay_forbidden, "no candidate is left")
    assert_fails(made.test_equal_requests_get_equal_candidates, "no candidate is left")


def test_unseeded_randomness_is_reported() -> None:
    rng = np.random.default_rng()
    made = sampler_that_changes("logits", lambda logits: rng.permutation(logits))
    assert_fails(made.test_equal_requests_get_equal_candidates, "the candidates for token 0 differ")


def test_apply_that_changes_state_is_reported() -> None:
    def apply(self: Any, candidates: Any) -> None:
        self.n = getattr(self, "n", 0) + 1
        candidates.logits[self.n] = 9

    assert_fails(sampler(apply=apply).test_apply_may_be_repeated_before_accept, "apply called once and several times")


def test_state_shared_by_requests_is_reported() -> None:
    seen: list[int] = []

    def apply(self: Any, candidates: Any) -> None:
        candidates.logits[seen] -= 1

    def create(cls: Any, options: Any, context: Any) -> Any:
        seen.clear()
        return cls()

    made = sampler(accept=lambda self, token: seen.append(token), apply=apply, create=classmethod(create))
    made.test_equal_requests_get_equal_candidates()
    assert_fails(made.test_requests_do_not_affect_each_other, "beside another request")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"type": "number", "default": 1, "description": "x"}, "a number without minimum and maximum"),
        ({"type": "boolean", "description": "x"}, "has no default"),
        ({"type": "boolean", "default": True}, "has no description"),
        ({"default": True, "description": "x"}, "has no type"),
        ({"type": "boolean", "default": 3, "description": "x"}, "does not allow its own default"),
        ({"type": "bool", "default": True, "description": "x"}, "not a valid JSON Schema"),
    ],
    ids=str,
)
def test_incomplete_options_are_reported(option: Any, message: str) -> None:
    made = sampler(options={"drop": option})
    assert_fails(made.test_options_are_described_and_bounded, message)


def test_create_that_always_returns_none_is_reported() -> None:
    made = sampler(create=classmethod(lambda cls, options, context: None))
    assert_fails(made.test_examples_create_a_sampler, "create returns None for all options that were tried")


def test_missing_apply_is_reported(tiny_model: Any) -> None:
    class WithoutApply:
        options = DropFirst.options
        truncates = True

        @classmethod
        def create(cls, options: Any, context: Any) -> Any:
            return cls()

        def accept(self, token: int) -> None:
            pass

    made = suite(SamplerConformance, WithoutApply)
    message = r"the class WithoutApply lacks apply\(\) \(see llamafw.Sampler\)"
    assert_fails(made.test_has_all_members_of_its_protocol, message, tiny_model)


def test_unregistered_name_gets_a_suggestion() -> None:
    class Mistyped(SamplerConformance):
        name = "top_kk"

    assert_fails(Mistyped.registered, "no sampler is registered as 'top_kk'; did you mean 'top_k'?")
