"""Decide who gets a slot, and which tokens are evaluated next. It knows nothing of backends, text or threads.

Every step takes one token of each sequence that generates, then tokens of prompts up to the limit of the step:
``n_batch`` if there is but one sequence; otherwise ``n_ubatch``, so that nobody waits long for a token because somebody
else's prompt is long. Of the room for prompts half goes to the oldest one, the rest to those with least left: a
short question is not held up by a long document, nor the document by a stream of questions.

Nothing of this shows in the answers, as a token's logits do not depend on what else is in the batch.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from llamafw.engine.sequence import Sequence
from llamafw.engine.slots import Slot, Slots
from llamafw.types import Batch, Ints


@dataclass(frozen=True, slots=True)
class Part:
    """What one sequence has in a step."""

    sequence: Sequence
    slot: Slot
    tokens: Ints  # they follow what the slot's cache holds
    output: bool  # the logits of the last one are wanted


class Scheduler:
    """Sequences wait for a slot, first come, first served; those that have one run together."""

    def __init__(self, slots: Slots, n_batch: int, n_ubatch: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self._slots, self._n_batch, self._n_ubatch = slots, n_batch, min(n_ubatch, n_batch)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.running or self.waiting)

    def admit(self) -> Iterator[tuple[Sequence, Slot, int]]:
        """Move sequences from waiting to running while there are slots for them.

        One that waits for a certain slot holds up nobody behind it.

        Yields
        ------
        tuple of Sequence, Slot and int
            The slot it gets, and how many tokens of the prompt the slot's cache already holds.
        """
        stay: deque[Sequence] = deque()
        while self.waiting and self._slots.any_free():
            sequence = self.waiting.popleft()
            request = sequence.request
            taken = self._slots.take(sequence.prompt, request.id_slot, cache_prompt=request.cache_prompt)
            if taken is None:
                stay.append(sequence)
            else:
                self.running.append(sequence)
                yield sequence, *taken
        self.waiting.extendleft(reversed(stay))

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence; its slot is free, and keeps its cache."""
        if sequence.slot is not None:
            self.running.remove(sequence)
            sequence.slot.busy = False
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def next_parts(self) -> list[Part]:
        """Return what is to be evaluated now; empty if nothing runs."""
        running = self.running
        if len(running) > self._n_batch:  # a tiny n_batch: take turns
            chosen = running[: self._n_batch]
            self.running = running[self._n_batch :] + chosen
            return [_part(sequence, 1) for sequence in chosen]
        parts = [_part(sequence, 1) for sequence in running if not sequence.n_left]
        prompts = [sequence for sequence in running if sequence.n_left]
        if prompts:
            most = self._n_batch if len(running) == 1 else self._n_ubatch
            shares = share([sequence.n_left for sequence in prompts], max(most - len(parts), 1))
            parts += [_part(sequence, n) for sequence, n in zip(prompts, shares, strict=True) if n]
        return parts


def share(left: Seq[int], room: int) -> list[int]:
    """Return how many tokens of each prompt to evaluate now, given what is left of each, oldest first."""
    given = [0] * len(left)
    by_length = sorted(range(1, len(left)), key=left.__getitem__)
    for i, most in [(0, (room + 1) // 2), *((i, room) for i in by_length), (0, room)]:
        n = min(left[i] - given[i], most, room)
        given[i] += n
        room -= n
    return given


def as_batch(parts: Seq[Part]) -> Batch:
    """Return the batch of one forward pass."""
    counts = [len(part.tokens) for part in parts]
    ends = np.cumsum(counts)
    return Batch(
        tokens=np.concatenate([part.tokens for part in parts]),
        positions=np.concatenate([np.arange(part.slot.n, part.slot.n + len(part.tokens)) for part in parts]).astype(
            np.int32
        ),
        slots=np.repeat(np.array([part.slot.id for part in parts], np.int32), counts),
        outputs=np.array([end - 1 for end, part in zip(ends, parts, strict=True) if part.output], np.int32),
    )


def _part(sequence: Sequence, n: int) -> Part:
    slot, left = sequence.slot, sequence.n_left
    assert slot is not None  # it runs
    if not left:
        return Part(sequence, slot, np.array([sequence.last], np.int32), True)
    tokens = sequence.prompt[slot.n : slot.n + n]
    return Part(sequence, slot, tokens, output=n >= left and sequence.wants_token)
