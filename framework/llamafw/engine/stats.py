"""Counts since the start, for those who watch. Written on the engine thread, read anywhere."""

from __future__ import annotations

from time import perf_counter
from typing import Literal

from llamafw.engine.sequence import Sequence
from llamafw.engine.slots import Slot
from llamafw.types import SlotStatus, Timings


class Counts:
    """What has been done so far."""

    def __init__(self) -> None:
        self.n_decode = self.n_busy_slots = 0
        self.prompt_tokens = self.prompt_tokens_cached = self.predicted_tokens = 0
        self.prompt_seconds = self.predicted_seconds = 0.0
        self.rejected = 0
        self.seconds = 1.0  # that a request takes, lately

    def passed(self, n_slots: int) -> None:
        """Count a forward pass with tokens of so many slots."""
        self.n_decode += 1
        self.n_busy_slots += n_slots

    def ended(self, arrived: float, timings: Timings) -> None:
        """Count a request that has ended, whichever way."""
        self.prompt_tokens += timings.prompt_n
        self.prompt_tokens_cached += timings.cache_n
        self.prompt_seconds += timings.prompt_ms / 1e3
        self.predicted_tokens += timings.predicted_n
        self.predicted_seconds += timings.predicted_ms / 1e3
        self.seconds += 0.2 * (perf_counter() - arrived - self.seconds)


def slot_status(slot: Slot) -> SlotStatus:
    """Return what there is to know of a slot."""
    sequence = slot.served
    if not isinstance(sequence, Sequence):
        return SlotStatus(slot.id, "idle", slot.id_task, slot.n)
    state: Literal["idle", "prompt", "generating"] = "generating"
    if sequence.done or not slot.busy:
        state = "idle"
    elif sequence.n_left:
        state = "prompt"
    return SlotStatus(
        slot.id,
        state,
        slot.id_task,
        slot.n,
        sequence.request,
        n_prompt=len(sequence.prompt),
        n_prompt_processed=sequence.n_done - sequence.n_cached,
        n_cached=sequence.n_cached,
        n_decoded=sequence.n_predicted,
        n_remain=sequence.n_remain,
        stop_type=sequence.stop_type,
        stopping_word=sequence.stopping_word,
    )
