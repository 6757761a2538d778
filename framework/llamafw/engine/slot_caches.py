"""Changes the caches of slots, and keeps the engine's record of them in step with the backend.

A cache may not be reducible to just any prefix: a recurrent model can only go back to a snapshot; see
`SnapshotBackend`. This module decides where snapshots are taken. Independent of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import cast

import numpy as np

from llamafw.engine.prompt_cache import Entry, PromptCache
from llamafw.engine.slots import MIN_TOKENS_TO_COPY, MIN_TOKENS_TO_SHARE, Slot, find_chunks
from llamafw.errors import FAULTS, LlamafwError
from llamafw.interfaces import Backend, HoldingBackend, SharingBackend, SnapshotBackend
from llamafw.types import Bytes, CachePages, Ints, Strengths

log = logging.getLogger(__name__)

_MIN_TOKENS_BETWEEN_SNAPSHOTS = 16  # evaluating fewer tokens again is about as fast as taking a snapshot
_MAX_TOKENS_BETWEEN_SNAPSHOTS = 2048  # of a prompt; an interrupted or changed prompt loses at most as many
_ANSWER_START = 12  # tokens at the end of a prompt that later prompts may not repeat, if the request does not say

CANNOT_MOVE_CHUNKS = (
    "parts of a cached prompt cannot be moved with this model: it has recurrent layers, sliding windows "
    "(see --swa-full), positions that are not rotations, or those of self-extend (--grp-attn-n)"
)


def can_move_chunks(backend: Backend) -> bool:
    """Return whether parts of a slot's cache can be moved to other positions; see `SlotCaches.prepare`."""
    return backend.can_cut and backend.can_shift and not backend.whole_texts


class SlotCaches:
    """The caches of all slots.

    Parameters
    ----------
    backend : Backend
        Holds the caches.
    slots : sequence of Slot
        The record of what they hold.
    prompt_cache : PromptCache
        Receives the states of slots that are about to be overwritten.
    """

    def __init__(self, backend: Backend, slots: Sequence[Slot], prompt_cache: PromptCache) -> None:
        self._backend, self._slots, self._prompt_cache = backend, slots, prompt_cache
        self._snapshot_backend = None if backend.can_cut else cast("SnapshotBackend", backend)
        self._snapshot_step = getattr(backend, "snapshot_step", 1)
        self._sharing_backend = cast("SharingBackend", backend) if hasattr(backend, "share_prefix") else None
        self._holding_backend: HoldingBackend | None = None
        if not backend.can_cut and hasattr(backend, "hold_state"):
            self._holding_backend = cast("HoldingBackend", backend)
        for slot in slots:
            slot.cuts = None if backend.can_cut else ()

    # --- for a new prompt

    def prepare(
        self,
        slot: Slot,
        prompt: Ints,
        *,
        cache_prompt: bool,
        snapshots: bool,
        n_answer_start: int | None = None,
        adapters: Strengths = (),
        n_cache_reuse: int = 0,
        from_disk: Entry | None = None,
    ) -> int:
        """Reduce a slot's cache to the longest possible prefix of ``prompt``; return its length.

        The last token of the prompt is not part of it, because its logits are needed.

        Parameters
        ----------
        slot : Slot
            The slot.
        prompt : (n_prompt,) int32
            The prompt.
        cache_prompt : bool
            False: empty the slot.
        snapshots : bool
            Take snapshots while the prompt is evaluated; see `plan_snapshots`.
        n_answer_start : int, optional
            See `GenerateRequest`.
        adapters : Strengths
            What the prompt will be evaluated with.
        n_cache_reuse : int
            Also reuse parts of the prompt that the slot holds at later positions, if they have as many tokens; 0: no.
            They are moved, so from there on the cache differs from a fresh evaluation.
        from_disk : Entry, optional
            A state that was read for this prompt.
        """
        reusable = prompt[:-1]
        if cache_prompt:
            try:
                self._save_to_prompt_cache(slot, reusable, adapters)
                self._take_prefix(slot, reusable, adapters, from_disk)
            except FAULTS:  # the request can be served without it
                log.exception("the prompt cache failed on slot %d", slot.id)

        n_common = slot.common_prefix(reusable, adapters) if cache_prompt else 0
        n_others = max(other.common_prefix(reusable, adapters) for other in self._slots) if cache_prompt else 0
        n_kept = n_common
        if cache_prompt and n_cache_reuse and slot.adapters == adapters:
            n_kept = self._move_chunks(slot, reusable, n_common, n_cache_reuse)
        if n_kept < slot.n:
            self._truncate(slot, n_kept)
        slot.n_stable, slot.adapters = 0, adapters
        if snapshots:
            self.plan_snapshots(slot, prompt, (n_common, n_others), n_answer_start)
        return slot.n

    def _save_to_prompt_cache(self, slot: Slot, prompt: Ints, adapters: Strengths) -> None:
        """Save a slot's state to the prompt cache if a new prompt would overwrite a long part of it.

        The next turn of a chat may replace the last answer, and so does the same prompt again. That is not enough.
        """
        tokens, n_common = slot.reusable[: slot.n_savable], slot.common_prefix(prompt, adapters)
        if n_common >= slot.n_stable or len(tokens) - n_common < MIN_TOKENS_TO_COPY:
            return
        if self._prompt_cache.holds(tokens, slot.adapters):
            return
        if self._prompt_cache.accepts(self._backend.state_size(len(tokens))):
            state = self._backend.save(slot.id, len(tokens))
            self._prompt_cache.add(tokens.copy(), state, slot.cuts, slot.adapters)

    def _take_prefix(self, slot: Slot, prompt: Ints, adapters: Strengths, from_disk: Entry | None) -> None:
        """Take the longest prefix of the prompt from another slot or a saved state if that saves enough tokens.

        Of another slot, the prefix is shared if the backend can do that. The other slot may be busy.
        """
        entry, n_entry = self._prompt_cache.best(prompt, adapters)
        if from_disk is not None and (n := from_disk.n_reused(prompt, adapters)) > n_entry:
            entry, n_entry = from_disk, n
        other = max(self._slots, key=lambda other: other.n_reused(prompt, adapters))
        n_other, n_own = other.n_reused(prompt, adapters), slot.n_reused(prompt, adapters)

        backend = self._sharing_backend
        if backend is not None and n_other >= n_entry:
            # states that cannot be cut are copied
            if n_other - n_own >= (MIN_TOKENS_TO_SHARE if self._snapshot_backend is None else MIN_TOKENS_TO_COPY):
                share = partial(backend.share_prefix, other.id, slot.id, n_other)
                self._replace(slot, prompt[:n_other], adapters, share)
            return
        if max(n_entry, n_other) - n_own < MIN_TOKENS_TO_COPY:
            return
        if entry is not None and n_entry > n_other:
            try:
                self.restore(slot, entry.tokens, entry.state, adapters)
            except LlamafwError as error:
                self._prompt_cache.discard(entry, error)
        elif self._prompt_cache.limit != 0:
            self.restore(slot, prompt[:n_other], self._backend.save(other.id, n_other), adapters)

    def _move_chunks(self, slot: Slot, prompt: Ints, n: int, min_tokens: int) -> int:
        """Move what the slot holds of the prompt after its first ``n`` tokens to where the prompt has it.

        Returns how many leading tokens of the prompt are cached then.
        """
        for n_skipped, length in find_chunks(slot.tokens[n : slot.n].copy(), prompt[n:], min_tokens):
            if n_skipped:
                self.shift(slot, n, n_skipped)
            n += length
        return n

    # --- snapshots

    def plan_snapshots(
        self, slot: Slot, prompt: Ints, n_common: Iterable[int] = (), n_answer_start: int | None = None
    ) -> None:
        """Decide where snapshots are taken while a prompt is evaluated; take the one that is due now.

        They are taken where this prompt continues or diverges from what slots hold, before the start of the answer,
        and in regular distances.

        Parameters
        ----------
        slot : Slot
            The slot; it holds the first tokens of the prompt.
        prompt : (n_prompt,) int32
            The prompt.
        n_common : iterable of int
            The lengths of the common prefixes of the prompt and what the slot held before it was cut, or others hold.
        n_answer_start : int, optional
            See `GenerateRequest`.
        """
        n_answer_start = _ANSWER_START if n_answer_start is None else n_answer_start
        slot.n_stable = max(len(prompt) - max(n_answer_start, 1), (len(prompt) + 1) // 2)
        if self._snapshot_backend is None:
            return
        regular = range(0, len(prompt), _MAX_TOKENS_BETWEEN_SNAPSHOTS)

        slot.marks, previous = [], max(slot.cuts or (), default=0)
        for mark in sorted({n - n % self._snapshot_step for n in (*n_common, slot.n_stable, *regular)}):
            if slot.n <= mark < len(prompt) and mark - previous >= _MIN_TOKENS_BETWEEN_SNAPSHOTS:
                slot.marks.append(mark)
                previous = mark
        self._take_due_snapshot(slot)

    def add_marks(self, slot: Slot, positions: Iterable[int]) -> None:
        """Plan snapshots at further positions, up to which other prompts begin like the one that is being evaluated."""
        if self._snapshot_backend is None:
            return
        for mark in sorted({n - n % self._snapshot_step for n in positions}):
            known = (*slot.marks, *(slot.cuts or ()))
            if mark > slot.n and not any(0 <= mark - other < _MIN_TOKENS_BETWEEN_SNAPSHOTS for other in known):
                slot.marks = sorted([*slot.marks, mark])

    def _take_due_snapshot(self, slot: Slot) -> None:
        if self._snapshot_backend is None or slot.n not in slot.marks:
            return
        try:
            self._snapshot_backend.take_snapshot(slot.id)
            self._note_cuts(slot)
        except FAULTS:  # snapshots only save time
            log.exception("the backend cannot take a snapshot of slot %d", slot.id)

    def _note_cuts(self, slot: Slot) -> None:
        if self._snapshot_backend is not None:
            slot.cuts = tuple(self._snapshot_backend.snapshots(slot.id))

    # --- while tokens are evaluated

    def extend(self, slot: Slot, tokens: Ints) -> None:
        """Record that the backend has evaluated ``tokens``, and take a snapshot if one is due."""
        if self._backend.whole_texts:  # it keeps nothing
            return
        slot.extend(tokens)
        self._take_due_snapshot(slot)

    @property
    def can_reject(self) -> bool:
        """Whether the last tokens of a slot can be removed at low cost, so that drafts can be verified."""
        return not self._backend.whole_texts and (self._snapshot_backend is None or self._holding_backend is not None)

    def hold(self, slot: Slot) -> None:
        """Prepare a slot for a draft, which `reject` can remove again."""
        if self._holding_backend is not None:
            self._holding_backend.hold_state(slot.id)

    def reject(self, slot: Slot, n: int) -> None:
        """Remove the tokens of a draft from position ``n`` on.

        If the backend must go back further, the tokens before ``n`` that it removes are lost tokens.
        """
        self._truncate(slot, n)
        slot.lost = slot.tokens[slot.n : n].copy()

    def undo(self, slot: Slot) -> int:
        """Remove what a failed forward pass has added; return how many of the slot's tokens were lost with it.

        These are now the first of the slot's lost tokens.
        """
        tokens = slot.tokens[: slot.n].copy()
        self._truncate(slot, slot.n)
        lost = tokens[slot.n :]
        slot.lost = np.concatenate([lost, slot.lost])
        return len(lost)

    def shift(self, slot: Slot, first: int, n: int) -> None:
        """Remove ``n`` tokens from ``first`` on.

        If the backend cannot shift, the slot is cut, and the tokens that remain after the cut are lost tokens.
        """
        if self._backend.can_shift:
            self._backend.shift(slot.id, first, n)
            slot.shift(first, n)
            self._note_cuts(slot)
            return
        tokens = np.concatenate([slot.tokens[:first], slot.tokens[first + n : slot.n]])
        self._truncate(slot, first)
        slot.lost = tokens[slot.n :]
        slot.marks = [first] if first - slot.n >= _MIN_TOKENS_BETWEEN_SNAPSHOTS else []

    # --- whole caches

    def save(self, slot: Slot) -> tuple[Ints, Bytes, Strengths]:
        """Return the tokens that other requests may reuse, their state, and the adapters that they belong to."""
        tokens = slot.reusable[: slot.n_savable].copy()
        return tokens, self._backend.save(slot.id, len(tokens)), slot.adapters

    def restore(self, slot: Slot, tokens: Ints, state: Bytes, adapters: Strengths = ()) -> None:
        """Replace the contents of a slot by ``tokens`` and their saved state.

        If this fails, the slot is empty.
        """
        self._replace(slot, tokens, adapters, lambda: self._backend.restore(slot.id, len(tokens), state))

    def store(self, may_continue: Callable[[], bool]) -> int:
        """Write what the slots and the prompt cache hold to the disk, most recently used first.

        Returns how many states were written. ``may_continue`` is that of `write_atomically`.
        """
        n_written = 0
        for slot in sorted(self._slots, key=lambda slot: -slot.last_used):
            n = slot.n_savable
            if n < MIN_TOKENS_TO_COPY or not may_continue():
                continue
            if self._prompt_cache.holds(slot.tokens[:n], slot.adapters):
                continue
            try:
                tokens, state, adapters = self.save(slot)
            except FAULTS:  # the prompt will be evaluated again
                log.exception("the cache of slot %d cannot be saved", slot.id)
                continue
            n_written += self._prompt_cache.store(Entry(tokens, state, slot.cuts, adapters), may_continue)
        for entry in self._prompt_cache:
            n_written += may_continue() and self._prompt_cache.store(entry, may_continue)
        return n_written

    def _replace(self, slot: Slot, tokens: Ints, adapters: Strengths, fill: Callable[[], None]) -> None:
        """Replace the contents of a slot by ``tokens``, which ``fill`` writes into the cache."""
        self.clear(slot)
        fill()
        slot.adapters = adapters
        slot.extend(tokens)
        slot.n_stable = slot.n
        self._note_cuts(slot)

    def clear(self, slot: Slot) -> int:
        """Empty a slot's cache; return how many tokens it held."""
        n = slot.n
        self._truncate(slot, 0)
        return n

    def clear_after_failure(self, slot: Slot) -> None:
        """Empty a slot after the backend failed on it, because its cache is in an unknown state."""
        try:
            self._backend.truncate(slot.id, 0)
            self._note_cuts(slot)
        except FAULTS:
            log.exception("the backend cannot empty slot %d", slot.id)
        slot.shorten(0)

    def forget(self) -> None:
        """Record that all slots are empty, because the backend was unloaded, and empty the prompt cache."""
        for slot in self._slots:
            slot.shorten(0)
            slot.n_stable = 0
            slot.cuts = None if self._backend.can_cut else ()
        self._prompt_cache.clear()

    def page_counts(self) -> CachePages | None:
        """Return how much of the caches is used; None if slots do not share memory."""
        return None if self._sharing_backend is None else self._sharing_backend.page_counts()

    def _truncate(self, slot: Slot, n: int) -> None:
        n_left = self._backend.truncate(slot.id, n)
        if not isinstance(n_left, int | np.integer) or not 0 <= n_left <= n:
            raise ValueError(f"truncate({slot.id}, {n}) returned {n_left!r}, not the number of positions that are left")
        slot.shorten(int(n_left))
        self._note_cuts(slot)
