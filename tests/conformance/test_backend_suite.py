"""The suite for backends names the rule that a backend breaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from llamafw.testing.backend import DeterministicBackend
from llamafw.testing.conformance import BackendConformance
from support.conformance import assert_fails, suite


def backend(**members: Any) -> Any:
    return suite(BackendConformance, type("Broken", (DeterministicBackend,), members), follows_the_model=False)


def backend_with_logits(change: Callable[[Any, Any], Any]) -> Any:
    return backend(forward=lambda self, batch: change(self, DeterministicBackend.forward(self, batch)))


def test_wrong_logits_are_reported(write_model: Any) -> None:
    made = suite(BackendConformance, DeterministicBackend)
    assert_fails(made.test_logits_match_float64, "F32: logits and those of float64 differ by up to", write_model)


@pytest.mark.parametrize("test", ["unknown_activation_is_refused", "unknown_tensor_role_is_refused"])
def test_accepting_unsupported_models_is_reported(test: str, write_model: Any) -> None:
    made = suite(BackendConformance, DeterministicBackend)
    assert_fails(getattr(made, f"test_{test}"), "is accepted", write_model)


def test_ignored_bias_is_reported(write_model: Any) -> None:
    made = suite(BackendConformance, DeterministicBackend)
    assert_fails(made.test_biases_are_added_or_refused, "with a bias of ffn_gate: logits", write_model)


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (backend_with_logits(lambda self, x: x + len(x)), "logits_do_not_depend_on_batch_size", "in batches of"),
        (
            backend_with_logits(lambda self, x: x + sum(map(len, self._slots))),
            "logits_do_not_depend_on_other_slots",
            "beside other slots and alone",
        ),
        (
            backend_with_logits(lambda self, x: x + self.n_threads),
            "logits_do_not_depend_on_threads",
            "with 2 threads and with 1",
        ),
        (
            backend_with_logits(lambda self, x: x.astype(np.float64)),
            "forward_returns_requested_rows_only",
            "logits are float64",
        ),
        (
            backend(shift=lambda self, slot, first, n: None),
            "shift_moves_later_positions_down",
            r"after shift\(0, 0, 1\)",
        ),
        (
            backend(restore=lambda self, slot, n, state: None),
            "restore_rejects_states_that_do_not_fit",
            "for 20 positions is accepted",
        ),
        (
            backend(restore=lambda self, slot, n, state: None),
            "restored_slot_continues_exactly",
            "the shape is|differ",
        ),
        (
            backend(state_size=lambda self, n: n),
            "state_size_matches_saved_states",
            r"state_size\(1\) is 1, but save\(0, 1\) returns 4 bytes",
        ),
        (backend(describe=lambda self: {}), "sizes_match_the_options", "n_threads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_rule_is_reported(made: Any, test: str, message: str, write_model: Any) -> None:
    make = made.registered()
    made.__class__.registered = classmethod(lambda cls: partial(with_threads, make))
    assert_fails(getattr(made, f"test_{test}"), message, write_model)


def with_threads(make: Any, context: Any) -> Any:
    made = make(context)
    made.n_threads = context.options.n_threads
    return made
