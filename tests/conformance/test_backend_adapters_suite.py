"""The suite for backends names the rule about adapters that a backend breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llamafw import RequestError
from llamafw.testing.backend import DeterministicBackend
from llamafw.testing.conformance import BackendConformance
from llamafw.testing.conformance.backend_adapters import BackendAdapterTests
from support.conformance import assert_fails, suite

RULES = [name for name in vars(BackendAdapterTests) if name.startswith("test_")]


class FakeBackend(DeterministicBackend):
    """A `DeterministicBackend` whose logits are shifted by the sum of a token's scales."""

    n_scales = 0

    def set_adapters(self, context: Any) -> None:
        self.n_scales = 0 if context is None else context.graph.n_scales

    def forward(self, batch: Any) -> Any:
        rows = super().forward(batch)
        if batch.scales is None:
            return rows
        if batch.scales.shape != (len(batch.tokens), self.n_scales):
            raise RequestError("scales do not fit")
        return rows + batch.scales.sum(1, keepdims=True)[batch.outputs]


def fake(**members: Any) -> Any:
    return suite(BackendConformance, type("Broken", (FakeBackend,), members), follows_the_model=False)


@pytest.mark.parametrize("rule", RULES)
def test_correct_backend_passes(rule: str, write_model: Any) -> None:
    getattr(fake(), rule)(write_model)


@pytest.mark.parametrize("rule", RULES)
def test_backend_without_adapters_is_skipped(rule: str, write_model: Any) -> None:
    made = suite(BackendConformance, DeterministicBackend, follows_the_model=False)
    with pytest.raises(pytest.skip.Exception, match="has no `set_adapters`"):
        getattr(made, rule)(write_model)


def ignore_slots(self: Any, batch: Any) -> Any:
    scales = None if batch.scales is None else np.repeat(batch.scales.mean(0, keepdims=True), len(batch.tokens), 0)
    return FakeBackend.forward(self, replace(batch, scales=scales))


def forget_scales(self: Any, batch: Any) -> Any:
    return FakeBackend.forward(self, replace(batch, scales=None))


def lose_contents(self: Any, context: Any) -> None:
    FakeBackend.set_adapters(self, context)
    self._slots = [held[::-1] for held in self._slots]


@pytest.mark.parametrize(
    ("members", "rule", "message"),
    [
        ({"forward": ignore_slots}, "tokens_have_the_adapters_of_their_slot", "logits with scales of 0 and without"),
        ({"forward": ignore_slots}, "logits_do_not_depend_on_the_adapters_of_others", "logits beside other slots"),
        ({"set_adapters": lose_contents}, "adapters_can_be_removed", "logits before and after the removal"),
        ({"forward": forget_scales}, "adapters_can_be_removed", "DID NOT RAISE"),
    ],
    ids=["mixed", "others", "contents", "refusal"],
)
def test_broken_rule_is_reported(members: Any, rule: str, message: str, write_model: Any) -> None:
    assert_fails(getattr(fake(**members), f"test_{rule}"), message, write_model)


def test_missing_member_is_reported(write_model: Any) -> None:
    made = suite(BackendConformance, type("Broken", (FakeBackend,), {"set_adapters": 5}), follows_the_model=False)
    assert_fails(made.test_has_all_members_of_its_protocol, "set_adapters", write_model())
