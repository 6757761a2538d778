"""The suite for backends names the rule that a backend breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from llamafw import BackendContext, Bytes, CachePages, LlamafwError, ModelError, Snapshots
from llamafw.testing.backend import DeterministicBackend
from llamafw.testing.conformance import BackendConformance
from llamafw.testing.conformance.backend_cache import BackendCacheTests
from support.conformance import assert_fails, suite


def backend(**members: Any) -> Any:
    return suite(BackendConformance, type("Broken", (DeterministicBackend,), members), follows_the_model=False)


def backend_with_logits(change: Callable[[Any, Any], Any]) -> Any:
    return backend(forward=lambda self, batch: change(self, DeterministicBackend.forward(self, batch)))


class SnapshotBackend(DeterministicBackend):
    """A `DeterministicBackend` that can be cut at snapshots only.

    A saved state begins with the number of snapshots and their positions.
    """

    can_cut = can_shift = False

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._limit = context.options.n_snapshots
        self._kept: dict[int, Snapshots[list[int]]] = {slot: Snapshots(self._limit) for slot in range(self.n_slots)}

    def take_snapshot(self, slot: int) -> None:
        self._kept[slot].add(len(self._slots[slot]), self._slots[slot].copy())

    def snapshots(self, slot: int) -> Sequence[int]:
        return self._kept[slot].positions

    def truncate(self, slot: int, n: int) -> int:
        if n < len(self._slots[slot]):
            _, tokens = self._kept[slot].last(n) or (0, [])
            self._kept[slot].cut(n)
            self._slots[slot] = tokens.copy()
        return len(self._slots[slot])

    def state_size(self, n: int) -> int:
        return 4 * (1 + self._limit + n)

    def save(self, slot: int, n: int) -> Bytes:
        if n not in (0, len(self._slots[slot]), *self.snapshots(slot)):
            raise LlamafwError(f"slot {slot} cannot be cut at {n}")
        before = [position for position in self.snapshots(slot) if position < n]
        return np.array([len(before), *before, *self._slots[slot][:n]], np.int32).view(np.uint8)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        if state.nbytes % 4 or n > self.n_ctx:
            raise LlamafwError("the state does not fit")
        count, *numbers = state.view(np.int32).tolist()
        if len(numbers) != count + n:
            raise LlamafwError("the state does not fit")
        self._slots[slot] = numbers[count:]
        self._kept[slot].cut(0)
        for position in numbers[:count]:
            self._kept[slot].add(position, numbers[count : count + position])


def snapshot_backend(**members: Any) -> Any:
    return suite(BackendConformance, type("Broken", (SnapshotBackend,), members), follows_the_model=False)


class SharingBackend(DeterministicBackend):
    """A `DeterministicBackend` with pages of one token, which are never really shared."""

    def share_prefix(self, source: int, target: int, n: int) -> None:
        self._slots[target] = self._slots[source][:n]

    def page_counts(self) -> CachePages:
        n_used = sum(len(tokens) for tokens in self._slots)
        return CachePages(1, n_used, 0, n_used, self.n_slots * self.n_ctx)


SHARING_TESTS = [
    "shared_prefix_continues_exactly",
    "slots_that_share_a_prefix_are_independent",
    "prefixes_that_cannot_be_shared_are_errors",
    "pages_are_counted",
]


class SharingSnapshotBackend(SnapshotBackend, SharingBackend):
    def share_prefix(self, source: int, target: int, n: int) -> None:
        self.restore(target, n, self.save(source, n))


def sharing_backend(base: type = SharingBackend, **members: Any) -> Any:
    return suite(BackendConformance, type("Broken", (base,), members), follows_the_model=False)


@pytest.mark.parametrize("name", SHARING_TESTS)
@pytest.mark.parametrize("base", [SharingBackend, SharingSnapshotBackend])
def test_correct_backend_that_shares_passes(base: type, name: str, write_model: Any) -> None:
    getattr(sharing_backend(base), f"test_{name}")(write_model)


def share_all(self: Any, source: int, target: int, n: int) -> None:
    self._slots[target] = self._slots[source]


def share_even(self: Any, source: int, target: int, n: int) -> None:
    if n % 2:
        raise LlamafwError("odd")
    self._slots[target] = self._slots[source][:n]


@pytest.mark.parametrize(
    ("members", "test", "message"),
    [
        ({"share_prefix": share_all}, SHARING_TESTS[0], "logits after sharing 16 positions and in a fresh slot"),
        ({"share_prefix": lambda self, source, target, n: None}, SHARING_TESTS[0], "slots that share 1 positions"),
        ({"share_prefix": share_all}, SHARING_TESTS[1], "logits of a prefix whose source got other text"),
        ({"share_prefix": share_even}, SHARING_TESTS[2], r"share_prefix\(0, 1, 1\) fails, although"),
        ({"page_counts": lambda self: CachePages(1, 1, 2, 2, 4)}, SHARING_TESTS[3], "n_shared=2"),
        ({"page_counts": lambda self: CachePages(1, 1, 0, 2, 4)}, SHARING_TESTS[3], "with empty slots"),
    ],
    ids=range(6),
)
def test_broken_rule_about_sharing_is_reported(members: Any, test: str, message: str, write_model: Any) -> None:
    assert_fails(getattr(sharing_backend(**members), f"test_{test}"), message, write_model)


def test_missing_methods_for_sharing_are_reported(write_model: Any) -> None:
    made = backend(share_prefix=lambda self, source, target, n: None)
    message = r"lacks page_counts\(\) \(see llamafw.SharingBackend\)"
    assert_fails(made.test_has_all_members_of_its_protocol, message, write_model())


class CandidateBackend(DeterministicBackend):
    """A `DeterministicBackend` that selects the most likely tokens."""

    def top_logits(self, batch: Any, n: int, n_vocab: int) -> tuple[Any, Any]:
        rows = self.forward(batch)[:, :n_vocab]
        ids = np.argsort(-rows, axis=1, kind="stable")[:, :n].astype(np.int32)
        return ids, np.take_along_axis(rows, ids, 1)


def candidate_backend(change: Callable[[Any, Any], Any]) -> Any:
    def top_logits(self: Any, batch: Any, n: int, n_vocab: int) -> Any:
        return change(*CandidateBackend.top_logits(self, batch, n, n_vocab))

    members = {"top_logits": top_logits}
    return suite(BackendConformance, type("Broken", (CandidateBackend,), members), follows_the_model=False)


def test_correct_backend_that_selects_tokens_passes(write_model: Any) -> None:
    made = candidate_backend(lambda ids, rows: (ids, rows))
    made.test_forward_returns_requested_rows_only(write_model)
    made.test_has_all_members_of_its_protocol(write_model())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, rows: (ids, rows[:, ::-1]), "the 5 highest logits of"),
        (lambda ids, rows: (ids[:, ::-1], rows), "the logits of the tokens that top_logits returned"),
        (lambda ids, rows: (ids.astype(np.int64), rows), r"top_logits returned int64 \(3, 5\), expected int32"),
        (lambda ids, rows: (ids, rows[:, :4]), r"top_logits returned float32 \(3, 4\)"),
    ],
    ids=range(4),
)
def test_wrong_selection_of_tokens_is_reported(change: Any, message: str, write_model: Any) -> None:
    assert_fails(candidate_backend(change).test_forward_returns_requested_rows_only, message, write_model)


CACHE_TESTS = [name for name in vars(BackendCacheTests) if name.startswith("test_")]


@pytest.mark.parametrize("name", CACHE_TESTS)
def test_correct_backend_with_snapshots_passes(name: str, write_model: Any) -> None:
    if "shar" in name or name == "test_pages_are_counted":
        with pytest.raises(pytest.skip.Exception, match="has no `share_prefix`"):
            getattr(snapshot_backend(), name)(write_model)
    elif "shift" in name:
        with pytest.raises(pytest.skip.Exception, match="`can_shift` is False"):
            getattr(snapshot_backend(), name)(write_model)
    else:
        getattr(snapshot_backend(), name)(write_model)


@pytest.mark.parametrize(
    ("members", "test", "message"),
    [
        (
            {"truncate": lambda self, slot, n: None},
            "truncated_slot_continues_exactly",
            "returned None, expected how many",
        ),
        (
            {"take_snapshot": lambda self, slot: self._kept[slot].add(len(self._slots[slot]), self._slots[slot][::-1])},
            "truncated_slot_continues_exactly",
            r"logits after truncate\(0, 39\) and in a fresh slot: .* numbers differ",
        ),
        (
            {"truncate": lambda self, slot, n: SnapshotBackend.truncate(self, slot, 0)},
            "slot_can_be_cut_at_its_snapshots",
            r"with snapshots at \(10, 20, 30\), truncate\(0, 35\) returned 0",
        ),
        (
            {"truncate": lambda self, slot, n: SnapshotBackend.truncate(self, slot, min(n, 39))},
            "truncate_to_all_positions_changes_nothing",
            r"truncate\(0, 40\) of a slot of 40 positions returned 30",
        ),
        ({"take_snapshot": lambda self, slot: None}, "slot_can_be_cut_repeatedly", "the first .* returned 0"),
        (
            {"snapshots": lambda self, slot: self._kept[slot].positions[::-1]},
            "slot_can_be_cut_at_its_snapshots",
            "is not ascending",
        ),
        (
            {"restore": lambda self, slot, n, state: DeterministicBackend.restore(self, slot, n, state[-4 * n :])},
            "saved_states_include_earlier_snapshots",
            r"snapshots\(1\) is \[40\], expected \[10, 20\]",
        ),
        (
            {"save": lambda self, slot, n: np.array([0, *self._slots[slot][-n:]], np.int32).view(np.uint8)},
            "states_that_cannot_be_saved_are_errors",
            "logits after restoring 1 positions and original",
        ),
        ({"state_size": lambda self, n: 4 * n}, "state_size_matches_saved_states", r"state_size\(10\) is 40"),
    ],
    ids=range(9),
)
def test_broken_rule_about_snapshots_is_reported(members: Any, test: str, message: str, write_model: Any) -> None:
    assert_fails(getattr(snapshot_backend(**members), f"test_{test}"), message, write_model)


def test_missing_methods_for_snapshots_are_reported(write_model: Any) -> None:
    made = backend(can_cut=False)
    message = r"lacks take_snapshot\(\), snapshots\(\) \(see llamafw.SnapshotBackend\)"
    assert_fails(made.test_has_all_members_of_its_protocol, message, write_model())


def test_inexact_backend_is_compared_with_a_tolerance(write_model: Any) -> None:
    """Rounding that depends on the batch is a failure only if the backend says that it is exact."""

    def forward(self: Any, batch: Any) -> Any:
        return DeterministicBackend.forward(self, batch) * np.float32(1 + 1e-6 * len(batch.tokens))

    backend(forward=forward, exact=False).test_logits_do_not_depend_on_batch_size(write_model)
    assert_fails(backend(forward=forward).test_logits_do_not_depend_on_batch_size, "in batches of", write_model)


def test_wrong_logits_are_reported(write_model: Any) -> None:
    made = suite(BackendConformance, DeterministicBackend)
    assert_fails(made.test_logits_match_float64, "F32: logits and those of float64 differ by up to", write_model)


def test_ignored_operators_are_reported(write_model: Any) -> None:
    made = suite(BackendConformance, DeterministicBackend)
    message = "a model with the activation silu: hidden states and those of float64"
    assert_fails(made.test_other_operators_are_computed_or_refused, message, write_model)


@pytest.mark.parametrize("words", ["the activation function", "the Activation", ""])
def test_refusals_that_name_no_operator_are_reported(words: str, write_model: Any) -> None:
    def refuse(context: BackendContext) -> Any:
        raise ModelError(f"there is no kernel for {words}")

    made = suite(BackendConformance, refuse)
    message = "a model with biases .* does not name Linear" if "Activation" in words else "does not name Activation"
    assert_fails(made.test_other_operators_are_computed_or_refused, message, write_model)


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
