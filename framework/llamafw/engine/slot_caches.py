"""Changes the caches of slots, and keeps the engine's record of them in step with the backend.

A cache may not be reducible to just any prefix: a recurrent model can only go back to a snapshot; see
`SnapshotBackend`. This module decides where snapshots are taken. Independent of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np

from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.slots import MIN_TOKENS_TO_COPY, MIN_TOKENS_TO_SHARE, Slot
from llamafw.errors import FAULTS
from llamafw.interfaces import Backend, SharingBackend, SnapshotBackend
from llamafw.types import Bytes, CachePages, Ints

log = logging.getLogger(__name__)

_MIN_TOKENS_BETWEEN_SNAPSHOTS = 16  # evaluating fewer tokens again is about as fast as taking a snapshot
_MAX_TOKENS_BETWEEN_SNAPSHOTS = 2048  # of a prompt; an interrupted or changed prompt loses at most as many
_ANSWER_START = 12  # tokens at the end of a prompt that later prompts may not repeat, if the request does not say


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
        self._sharing_backend = cast("SharingBackend", backend) if hasattr(backend, "share_prefix") else None
        for slot in slots:
            slot.cuts = None if backend.can_cut else ()

    # --- for a new prompt

    def prepare(
        self, slot: Slot, prompt: Ints, *, cache_prompt: bool, snapshots: bool, n_answer_start: int | None = None
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
        """
        reusable = prompt[:-1]
        if cache_prompt:
            try:
                self._save_to_prompt_cache(slot, reusable)
                self._take_prefix(slot, reusable)
            except FAULTS:  # the request can be served without it
                log.exception("the prompt cache failed on slot %d", slot.id)

        n_common = slot.common_prefix(reusable) if cache_prompt else 0
        n_others = max(other.common_prefix(reusable) for other in self._slots) if cache_prompt else 0
        if n_common < slot.n:
            self._truncate(slot, n_common)
        slot.n_stable = 0
        if snapshots:
            self.plan_snapshots(slot, prompt, (n_common, n_others), n_answer_start)
        return slot.n

    def _save_to_prompt_cache(self, slot: Slot, prompt: Ints) -> None:
        """Save a slot's state to the prompt cache if a new prompt would overwrite a long part of it.

        The next turn of a chat may replace the last answer, and so does the same prompt again. That is not enough.
        """
        tokens, n_common = slot.reusable[: slot.n_savable], slot.common_prefix(prompt)
        if n_common >= slot.n_stable or len(tokens) - n_common < MIN_TOKENS_TO_COPY:
            return
        if self._prompt_cache.holds(tokens):
            return
        if self._prompt_cache.accepts(self._backend.state_size(len(tokens))):
            self._prompt_cache.add(tokens.copy(), self._backend.save(slot.id, len(tokens)), slot.cuts)

    def _take_prefix(self, slot: Slot, prompt: Ints) -> None:
        """Take the longest prefix of the prompt from another slot or the prompt cache if that saves enough tokens.

        Of another slot, the prefix is shared if the backend can do that. The other slot may be busy.
        """
        entry, n_entry = self._prompt_cache.best(prompt)
        other = max(self._slots, key=lambda other: other.n_reused(prompt))
        n_other, n_own = other.n_reused(prompt), slot.n_reused(prompt)

        backend = self._sharing_backend
        if backend is not None and n_other >= n_entry:
            # states that cannot be cut are copied
            if n_other - n_own >= (MIN_TOKENS_TO_SHARE if self._snapshot_backend is None else MIN_TOKENS_TO_COPY):
                self._replace(slot, prompt[:n_other], lambda: backend.share_prefix(other.id, slot.id, n_other))
            return
        if self._prompt_cache.limit == 0 or max(n_entry, n_other) - n_own < MIN_TOKENS_TO_COPY:
            return
        if entry is None or n_other >= n_entry:
            tokens, state = prompt[:n_other], self._backend.save(other.id, n_other)
        else:
            tokens, state = entry.tokens, entry.state
        self.restore(slot, tokens, state)

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
        for mark in sorted({*n_common, slot.n_stable, *regular}):
            if slot.n <= mark < len(prompt) and mark - previous >= _MIN_TOKENS_BETWEEN_SNAPSHOTS:
                slot.marks.append(mark)
                previous = mark
        self._take_due_snapshot(slot)

    def add_marks(self, slot: Slot, positions: Iterable[int]) -> None:
        """Plan snapshots at further positions, up to which other prompts begin like the one that is being evaluated."""
        if self._snapshot_backend is None:
            return
        for mark in sorted(positions):
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

    def save(self, slot: Slot) -> tuple[Ints, Bytes]:
        """Return the tokens that other requests may reuse, and their state."""
        tokens = slot.reusable[: slot.n_savable].copy()
        return tokens, self._backend.save(slot.id, len(tokens))

    def restore(self, slot: Slot, tokens: Ints, state: Bytes) -> None:
        """Replace the contents of a slot by ``tokens`` and their saved state.

        If this fails, the slot is empty.
        """
        self._replace(slot, tokens, lambda: self._backend.restore(slot.id, len(tokens), state))

    def _replace(self, slot: Slot, tokens: Ints, fill: Callable[[], None]) -> None:
        """Replace the contents of a slot by ``tokens``, which ``fill`` writes into the cache."""
        self.clear(slot)
        fill()
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

    def page_counts(self) -> CachePages | None:
        """Return how much of the caches is used; None if slots do not share memory."""
        return None if self._sharing_backend is None else self._sharing_backend.page_counts()

    def _truncate(self, slot: Slot, n: int) -> None:
        n_left = self._backend.truncate(slot.id, n)
        if not isinstance(n_left, int | np.integer) or not 0 <= n_left <= n:
            raise ValueError(f"truncate({slot.id}, {n}) returned {n_left!r}, not the number of positions that are left")
        slot.shorten(int(n_left))
        self._note_cuts(slot)
