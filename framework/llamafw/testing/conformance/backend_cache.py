"""The rules for a backend's cache: it can be cut, shifted, saved, restored and shared, and logits stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest

from llamafw.errors import LlamafwError
from llamafw.interfaces import Backend, HoldingBackend, SharingBackend, SnapshotBackend
from llamafw.testing.batches import batch, logits
from llamafw.testing.conformance.backend_base import F32_CACHE, N_TOKENS, TOKENS, BackendTests, WriteModel
from llamafw.testing.conformance.base import assert_identical

SNAPSHOTS = (10, 20, 30)  # where snapshots of the prompt are taken
NEXT = 5  # a token that continues the prompt


class BackendCacheTests(BackendTests):
    """The part of `BackendConformance` that tests caches."""

    # --- cuts

    def test_truncated_slot_continues_exactly(self, write_model: WriteModel) -> None:
        """After `truncate(slot, n)` returned m ≤ n, the tokens from m on give the same logits as in a fresh slot.

        If ``can_cut`` is True, m is n.
        """
        with self.open_filled(write_model()) as (backend, whole):
            for n in (N_TOKENS - 1, 33, 20, 17, 1, 0):
                left = self.truncate(backend, 0, n)
                if backend.can_cut:
                    assert left == n, f"truncate(0, {n}) returned {left}, although `can_cut` is True"
                rest = backend.forward(batch((0, left, TOKENS[left:])))
                self.check_same(backend, rest, whole[left:-1], f"logits after truncate(0, {n}) and in a fresh slot")

    def test_truncate_to_all_positions_changes_nothing(self, write_model: WriteModel) -> None:
        """`truncate(slot, n)` does nothing if the slot has n positions or fewer."""
        with self.open_filled(write_model()) as (backend, whole):
            left = self.truncate(backend, 0, N_TOKENS)
            assert left == N_TOKENS, f"truncate(0, {N_TOKENS}) of a slot of {N_TOKENS} positions returned {left}"
            backend.truncate(0, 10_000)
            last = backend.forward(batch((0, N_TOKENS, [NEXT])))
            self.check_same(backend, last, whole[-1:], "logits after truncate(0, 10000) and without it")

    def test_slot_can_be_cut_repeatedly(self, write_model: WriteModel) -> None:
        """A slot that was cut and evaluated again can be cut again at the same snapshot."""
        with self.open_filled(write_model()) as (backend, _):
            for time in ("first", "second", "third"):
                left = self.truncate(backend, 0, 25)
                assert left >= SNAPSHOTS[1], f"the {time} truncate(0, 25) returned {left}, expected at least 20"
                backend.forward(batch((0, left, TOKENS[left:])))

    def test_truncated_slot_leaves_others_unchanged(self, write_model: WriteModel) -> None:
        """`truncate` of one slot does not change another one."""
        with self.open_filled(write_model()) as (backend, whole):
            logits(backend, TOKENS[::-1], slot=1)
            self.truncate(backend, 1, 20)
            last = backend.forward(batch((0, N_TOKENS, [NEXT])))
            self.check_same(backend, last, whole[-1:], "logits of slot 0 after truncate(1, 20) and without it")

    def test_shift_moves_later_positions_down(self, write_model: WriteModel) -> None:
        """After `shift`, logits are as if the remaining tokens had been evaluated at their new positions.

        With a single layer this is exact: what the cache holds of a token depends on the token and its position only.
        """
        with self.open(write_model(n_layer=1), **F32_CACHE) as backend:
            if not backend.can_shift:
                pytest.skip("`can_shift` is False")
            for first, n in ((0, 1), (4, 16), (8, 4), (10, 30)):
                logits(backend, TOKENS)
                backend.shift(0, first, n)
                shifted = backend.forward(batch((0, N_TOKENS - n, [NEXT]))).copy()
                evaluated = logits(backend, [*TOKENS[:first], *TOKENS[first + n :], NEXT], slot=1)[-1:]
                self.check_close(shifted, evaluated, f"logits after shift(0, {first}, {n}) and evaluated anew")

    # --- saved states

    def test_restored_slot_continues_exactly(self, write_model: WriteModel) -> None:
        """A saved state, restored into any slot, continues with the same logits, bit for bit."""
        with self.open_filled(write_model(types="Q8_0"), n_slots=3) as (backend, whole):
            for n in (1, 16, 17, 33, N_TOKENS) if backend.can_cut else (*SNAPSHOTS, N_TOKENS):
                state = backend.save(0, n)
                assert state.ndim == 1, f"save() returns the shape {state.shape}, expected (n_bytes,)"
                assert state.dtype == np.uint8, f"save() returns {state.dtype}, expected uint8"
                logits(backend, TOKENS[::-1], slot=2)
                backend.restore(2, n, state)
                assert_identical(backend.save(2, n), state, f"the state of {n} positions restored and original")
                rest = backend.forward(batch((2, n, [*TOKENS[n:], NEXT])))
                self.check_same(backend, rest, whole[n:], f"logits after restoring {n} positions and original")

    def test_state_size_matches_saved_states(self, write_model: WriteModel) -> None:
        """`state_size(n)` is the number of bytes that `save(slot, n)` returns; with snapshots it may be larger.

        `state_format` is not empty.
        """
        with self.open_filled(write_model(types="Q8_0")) as (backend, _):
            for n in (0, 1, 17, N_TOKENS) if backend.can_cut else (*SNAPSHOTS, N_TOKENS):
                size, expected = backend.state_size(n), backend.save(0, n).nbytes
                is_enough = size == expected if backend.can_cut else size >= expected
                assert is_enough, f"state_size({n}) is {size}, but save(0, {n}) returns {expected} bytes"
            state_format = backend.state_format
            assert isinstance(state_format, str), f"state_format is {state_format!r}, expected text"
            assert state_format, "state_format is empty"

    def test_saved_state_is_a_copy(self, write_model: WriteModel) -> None:
        """A saved state does not change when its slot is used again."""
        with self.open_filled(write_model()) as (backend, _):
            state = backend.save(0, SNAPSHOTS[1])
            kept = state.copy()
            logits(backend, TOKENS[::-1])
            assert_identical(state, kept, "a saved state after and before its slot was used again")

    def test_restore_rejects_states_that_do_not_fit(self, write_model: WriteModel) -> None:
        """`restore` raises LlamafwError for a state that does not fit, and leaves the slot as it was."""
        with self.open_filled(write_model(), n_ctx=64) as (backend, whole):
            n_state, end = SNAPSHOTS[1], N_TOKENS
            state = backend.save(0, n_state)
            for n, wrong in ((n_state, np.append(state, np.uint8(0))), (65, state)):
                if not len(state) and n > n_state:  # a model without a cache has nothing that could be too long
                    continue
                what = f"a state of {len(wrong)} bytes for {n} positions"
                try:
                    backend.restore(0, n, wrong)
                except LlamafwError:
                    last = backend.forward(batch((0, end, [NEXT])))
                    self.check_same(backend, last, whole[-1:], f"logits after and before {what} was rejected")
                    logits(backend, TOKENS)
                else:
                    pytest.fail(f"{what} is accepted; save() returned {len(state)} bytes for {n_state}")

    def test_states_that_cannot_be_saved_are_errors(self, write_model: WriteModel) -> None:
        """`save(slot, n)` raises LlamafwError if the slot cannot be cut at n; otherwise the state can be restored."""
        with self.open_filled(write_model()) as (backend, whole):
            for n in range(1, N_TOKENS):
                try:
                    state = backend.save(0, n)
                except LlamafwError:
                    must_work = backend.can_cut or n in SNAPSHOTS
                    assert not must_work, f"save(0, {n}) fails, although the slot can be cut there"
                    continue
                backend.restore(1, n, state)
                row = backend.forward(batch((1, n, TOKENS[n : n + 1])))
                self.check_same(backend, row, whole[n : n + 1], f"logits after restoring {n} positions and original")

    # --- snapshots

    def test_slot_can_be_cut_at_its_snapshots(self, write_model: WriteModel) -> None:
        """`truncate(slot, n)` goes back to the last snapshot of at most n positions, if not less far."""
        with self.open_filled(write_model()) as (backend, whole):
            snapshots = self.snapshot_backend(backend)
            self.check_snapshots(snapshots, 0, SNAPSHOTS)
            for n in (35, 30, 29, 10, 5):
                position = max((position for position in SNAPSHOTS if position <= n), default=0)
                left = self.truncate(backend, 0, n)
                assert left >= position, f"with snapshots at {SNAPSHOTS}, truncate(0, {n}) returned {left}"
                self.check_snapshots(snapshots, 0, [at for at in SNAPSHOTS if at <= left])
                rest = backend.forward(batch((0, left, [*TOKENS[left:], NEXT])))
                self.check_same(backend, rest, whole[left:], f"logits after truncate(0, {n}) and in a fresh slot")
                self.truncate(backend, 0, N_TOKENS)

    def test_saved_states_include_earlier_snapshots(self, write_model: WriteModel) -> None:
        """A restored slot has the snapshots of the saved one before the saved position, and no others."""
        with self.open_filled(write_model()) as (backend, whole):
            snapshots = self.snapshot_backend(backend)
            state = backend.save(0, SNAPSHOTS[2])
            logits(backend, TOKENS[::-1], slot=1)
            snapshots.take_snapshot(1)
            backend.restore(1, SNAPSHOTS[2], state)
            self.check_snapshots(snapshots, 1, SNAPSHOTS[:2], SNAPSHOTS)

            left = self.truncate(backend, 1, 25)
            assert left >= SNAPSHOTS[1], f"truncate(1, 25) of the restored slot returned {left}"
            rest = backend.forward(batch((1, left, [*TOKENS[left:], NEXT])))
            self.check_same(backend, rest, whole[left:], "logits after restoring and cutting a slot and original")

    def test_number_of_snapshots_is_limited(self, write_model: WriteModel) -> None:
        """A slot has at most `n_snapshots`, and always the newest; other slots do not count."""
        with self.open(write_model(), n_snapshots=3) as backend:
            snapshots = self.snapshot_backend(backend)
            for slot in (0, 1):
                for position, token in enumerate(TOKENS):
                    backend.forward(batch((slot, position, [token]), outputs=[]))
                    snapshots.take_snapshot(slot)
                    kept = list(snapshots.snapshots(slot))
                    assert position + 1 in kept, f"the snapshot at {position + 1} is missing in {kept}"
                    assert len(kept) <= 3, f"with n_snapshots=3, a slot has snapshots at {kept}"
            kept = list(snapshots.snapshots(0))
            assert N_TOKENS in kept, f"after snapshots of slot 1, the newest one of slot 0 is missing in {kept}"

    def test_emptied_slot_has_no_snapshots(self, write_model: WriteModel) -> None:
        """`truncate(slot, 0)` removes all snapshots of a slot, and none of others."""
        with self.open_filled(write_model()) as (backend, _):
            snapshots = self.snapshot_backend(backend)
            logits(backend, TOKENS[:5], slot=1)
            snapshots.take_snapshot(1)
            self.truncate(backend, 1, 0)
            self.check_snapshots(snapshots, 1, ())
            self.check_snapshots(snapshots, 0, SNAPSHOTS)

    def test_slot_goes_back_to_the_state_that_it_holds(self, write_model: WriteModel) -> None:
        """After `hold_state`, a slot can be cut to at least the held position, as often as needed."""
        start, held, end = SNAPSHOTS[1], SNAPSHOTS[1] + 3, N_TOKENS
        with self.open_filled(write_model()) as (backend, whole):
            holding = self.holding_backend(backend)
            self.truncate(backend, 0, start)
            backend.forward(batch((0, start, TOKENS[start:held]), outputs=[]))
            holding.hold_state(0)
            for n in (end - 1, held + 9, held + 5, held + 1, held):
                backend.forward(batch((0, held, TOKENS[held:end])))
                left = self.truncate(backend, 0, n)
                assert left >= held, f"with a state held at {held}, truncate(0, {n}) returned {left}"
                self.check_snapshots(holding, 0, SNAPSHOTS[:2])
                rest = backend.forward(batch((0, left, [*TOKENS[left:], NEXT])))
                self.check_same(backend, rest, whole[left:], f"logits after truncate(0, {n}) and in a fresh slot")
                self.truncate(backend, 0, held)

    def test_held_state_belongs_to_its_text(self, write_model: WriteModel) -> None:
        """A held state is not used for another text in the slot, nor for another slot."""
        with self.open_filled(write_model()) as (backend, whole):
            holding = self.holding_backend(backend)
            logits(backend, TOKENS[::-1][:20], slot=1)
            holding.hold_state(1)
            self.truncate(backend, 1, 0)
            logits(backend, TOKENS, slot=1)
            for slot, n in ((1, N_TOKENS - 5), (0, N_TOKENS - 9)):
                left = self.truncate(backend, slot, n)
                rest = backend.forward(batch((slot, left, [*TOKENS[left:], NEXT])))
                self.check_same(backend, rest, whole[left:], f"logits after truncate({slot}, {n}) and in a fresh slot")

    # --- shared memory

    def test_shared_prefix_continues_exactly(self, write_model: WriteModel) -> None:
        """After `share_prefix(source, target, n)`, the target continues with the logits of a fresh slot."""
        with self.open_filled(write_model(types="Q8_0"), n_slots=3) as (backend, whole):
            sharing = self.sharing_backend(backend)
            for n in (1, 16, 17, 33, N_TOKENS) if backend.can_cut else (*SNAPSHOTS, N_TOKENS):
                logits(backend, TOKENS[::-1], slot=2)
                sharing.share_prefix(0, 2, n)
                assert_identical(
                    backend.save(2, n), backend.save(0, n), f"the states of slots that share {n} positions"
                )
                rest = backend.forward(batch((2, n, [*TOKENS[n:], NEXT])))
                self.check_same(backend, rest, whole[n:], f"logits after sharing {n} positions and in a fresh slot")

    def test_slots_that_share_a_prefix_are_independent(self, write_model: WriteModel) -> None:
        """Slots that share a prefix do not change each other, whichever of them continues or gets other text."""
        n = SNAPSHOTS[2]
        with self.open_filled(write_model()) as (backend, whole):
            sharing = self.sharing_backend(backend)
            sharing.share_prefix(0, 1, n)
            last = backend.forward(batch((0, N_TOKENS, [NEXT]), (1, n, TOKENS[: N_TOKENS - n]), outputs=[0]))
            self.check_same(backend, last, whole[-1:], "logits of a slot that continues after and before it was shared")

            left = self.truncate(backend, 1, n)
            logits(backend, TOKENS[::-1])
            rest = backend.forward(batch((1, left, [*TOKENS[left:], NEXT])))
            self.check_same(
                backend, rest, whole[left:], "logits of a prefix whose source got other text and without it"
            )

    def test_prefixes_that_cannot_be_shared_are_errors(self, write_model: WriteModel) -> None:
        """`share_prefix` raises LlamafwError where `save` does, and leaves the target as it was."""
        with self.open_filled(write_model()) as (backend, whole):
            sharing = self.sharing_backend(backend)
            expected = logits(backend, [*TOKENS[::-1], NEXT], slot=1)[-1:]
            for n in range(1, N_TOKENS):
                logits(backend, TOKENS[::-1], slot=1)
                try:
                    sharing.share_prefix(0, 1, n)
                except LlamafwError:
                    must_work = backend.can_cut or n in SNAPSHOTS
                    assert not must_work, f"share_prefix(0, 1, {n}) fails, although the slot can be cut there"
                    row = backend.forward(batch((1, N_TOKENS, [NEXT])))
                    self.check_same(backend, row, expected, f"logits of the target after {n} positions were refused")
                else:
                    row = backend.forward(batch((1, n, TOKENS[n : n + 1])))
                    self.check_same(backend, row, whole[n : n + 1], f"logits after sharing {n} positions and original")

    def test_pages_are_counted(self, write_model: WriteModel) -> None:
        """`page_counts` has no more shared pages than used ones; empty slots use none."""
        with self.open_filled(write_model()) as (backend, _):
            sharing = self.sharing_backend(backend)
            sharing.share_prefix(0, 1, SNAPSHOTS[2])
            counts = sharing.page_counts()
            in_order = 0 <= counts.n_shared <= counts.n_used <= counts.n_touched <= counts.n_total
            assert in_order, f"page_counts() is {counts}, which cannot be"
            for slot in range(backend.n_slots):
                backend.truncate(slot, 0)
            assert sharing.page_counts().n_used == 0, f"with empty slots, page_counts() is {sharing.page_counts()}"

    # --- helpers

    @contextmanager
    def open_filled(self, path: Any, **options: Any) -> Iterator[tuple[Backend, Any]]:
        """Open a model and evaluate the prompt in slot 0, with snapshots at `SNAPSHOTS` if it needs them.

        Yields
        ------
        backend : Backend
            The backend.
        logits : (N_TOKENS + 1, n_vocab) float32
            The logits after each token of the prompt and after `NEXT`.
        """
        with self.open(path, **options) as backend:
            whole = logits(backend, [*TOKENS, NEXT])
            backend.truncate(0, 0)
            for first, end in zip((0, *SNAPSHOTS), (*SNAPSHOTS, N_TOKENS), strict=True):
                if first and not backend.can_cut:
                    self.snapshot_backend(backend).take_snapshot(0)
                backend.forward(batch((0, first, TOKENS[first:end]), outputs=[]))
            yield backend, whole

    def truncate(self, backend: Backend, slot: int, n: int) -> int:
        """Truncate a slot; fail unless the result is a number of positions."""
        left = backend.truncate(slot, n)
        is_valid = isinstance(left, int | np.integer) and 0 <= left <= n
        assert is_valid, f"truncate({slot}, {n}) returned {left!r}, expected how many positions are left"
        return left

    def snapshot_backend(self, backend: Backend) -> SnapshotBackend:
        """Return the backend; skip the test if it needs no snapshots."""
        if backend.can_cut:
            pytest.skip("`can_cut` is True")
        return cast("SnapshotBackend", backend)

    def holding_backend(self, backend: Backend) -> HoldingBackend:
        """Return the backend; skip the test if it can be cut anywhere, or holds no states."""
        if backend.can_cut or not hasattr(backend, "hold_state"):
            pytest.skip("`can_cut` is True, or the backend has no `hold_state`")
        return cast("HoldingBackend", backend)

    def sharing_backend(self, backend: Backend) -> SharingBackend:
        """Return the backend; skip the test if its slots share no memory."""
        if not hasattr(backend, "share_prefix"):
            pytest.skip("the backend has no `share_prefix`")
        return cast("SharingBackend", backend)

    def check_snapshots(self, backend: SnapshotBackend, slot: int, expected: Any, allowed: Any = None) -> None:
        """Fail unless a slot has snapshots at the expected positions, and besides these only at the allowed ones."""
        positions = list(backend.snapshots(slot))
        is_right = set(expected) <= set(positions) <= set(expected if allowed is None else allowed)
        assert is_right, f"snapshots({slot}) is {positions}, expected {list(expected)}"
        assert positions == sorted(positions), f"snapshots({slot}) is not ascending: {positions}"
