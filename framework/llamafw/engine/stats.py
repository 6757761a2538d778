"""Counts what the engine has done.

Written on the engine thread, read on any thread.
"""

from __future__ import annotations

from collections import Counter
from time import perf_counter
from typing import Literal

from llamafw.engine.slots import Slot
from llamafw.types import EngineStats, SlotStatus, Timings


class Counters:
    """The work done since the engine's start."""

    def __init__(self) -> None:
        self.n_decode = self.n_busy_slots = 0
        self.prompt_tokens = self.prompt_tokens_cached = self.predicted_tokens = self.timed_tokens = 0
        self.prompt_seconds = self.predicted_seconds = 0.0
        self.drafts = self.draft_tokens = 0
        self.draft_accepted: list[int] = []  # by position in the draft
        self.preemptions = Counter[int]()  # by priority of the interrupted request
        self.seconds_per_request = 1.0  # moving average

    def count_pass(self, n_slots: int) -> None:
        """Count a forward pass with tokens of ``n_slots`` slots."""
        self.n_decode += 1
        self.n_busy_slots += n_slots

    def count_draft(self, n: int, n_accepted: int) -> None:
        """Count a draft of ``n`` tokens, of which the first ``n_accepted`` were drawn."""
        self.drafts += 1
        self.draft_tokens += n
        self.draft_accepted += [0] * (n_accepted - len(self.draft_accepted))
        for i in range(n_accepted):
            self.draft_accepted[i] += 1

    def count_request(self, arrived: float, timings: Timings) -> None:
        """Count a request that has ended, for whatever reason."""
        self.prompt_tokens += timings.prompt_n
        self.prompt_tokens_cached += timings.cache_n
        self.prompt_seconds += timings.prompt_ms / 1e3
        self.predicted_tokens += timings.predicted_n
        self.timed_tokens += max(timings.predicted_n - 1, 0)
        self.predicted_seconds += timings.predicted_ms / 1e3
        self.seconds_per_request += 0.2 * (perf_counter() - arrived - self.seconds_per_request)

    def totals(self) -> EngineStats:
        """Return the work done, without the current load."""
        return EngineStats(
            n_decode=self.n_decode,
            n_busy_slots=self.n_busy_slots,
            prompt_tokens=self.prompt_tokens,
            prompt_tokens_cached=self.prompt_tokens_cached,
            prompt_seconds=self.prompt_seconds,
            predicted_tokens=self.predicted_tokens,
            timed_tokens=self.timed_tokens,
            predicted_seconds=self.predicted_seconds,
            drafts=self.drafts,
            draft_tokens=self.draft_tokens,
            draft_accepted=tuple(self.draft_accepted),
        )


def slot_status(slot: Slot, *, speculative: bool = False) -> SlotStatus:
    """Return the current state of a slot; ``speculative``: whether drafts are verified."""
    task = slot.task
    state: Literal["idle", "prompt", "generating"] = "generating"
    if task is None or task.done or not slot.busy:
        state = "idle"
    elif task.n_left:
        state = "prompt"
    return SlotStatus(slot.id, state, slot.id_task, slot.n, speculative, **(task.status() if task else {}))
