"""Decide who gets a slot, and which tokens are evaluated next. It knows nothing of backends, text or threads.

Every step takes one token of each sequence that generates, then tokens of prompts up to the limit of the step:
``n_batch`` if there is but one sequence; otherwise ``n_ubatch``, so that nobody waits long for a token because somebody
else's prompt is long. Of the room for prompts half goes to the oldest one, the rest to those with least left: a
short question is not held up by a long document, nor the document by a stream of questions.

Nothing of this shows in the answers, as a token's logits do not depend on what else is in the batch. Texts to be
embedded never share a step with others, as the backend computes hidden states or logits; where both run, they take
turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from llamafw.engine.embed_sequence import EmbedSequence
from llamafw.engine.sequence import Sequence
from llamafw.engine.slots import Slot, Slots
from llamafw.types import Batch, Ints

Task = Sequence | EmbedSequence
"""What is scheduled: a text that goes on, or one that is embedded."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one task has in a step."""

    task: Task
    slot: Slot
    tokens: Ints  # they follow what the slot's cache holds
    outputs: range  # which of them something is wanted of


class Scheduler:
    """Sequences wait for a slot, first come, first served; those that have one run together.

    Parameters
    ----------
    continuous : bool
        False: who waits begins when nobody generates.
    """

    def __init__(self, slots: Slots, n_batch: int, n_ubatch: int, *, continuous: bool = True) -> None:
        self.waiting: deque[Task] = deque()
        self.running: list[Task] = []  # oldest first
        self._slots, self.n_batch, self._n_ubatch = slots, n_batch, min(n_ubatch, n_batch)
        self._continuous = continuous
        self._embeds = False  # whose turn it is

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.running or self.waiting)

    def admit(self) -> Iterator[tuple[Task, Slot, int]]:
        """Move sequences from waiting to running while there are slots for them.

        One that waits for a certain slot holds up nobody behind it.

        Yields
        ------
        tuple of task, Slot and int
            The slot it gets, and how many tokens of the prompt the slot's cache already holds.
        """
        if not self._continuous and any(not task.n_left for task in self.running):
            return
        for task in list(self.waiting):
            if not self._slots.any_free():
                return
            request = task.request
            taken = self._slots.take(task.prompt, request.id_slot, cache_prompt=request.cache_prompt)
            if taken is not None:
                self.waiting.remove(task)
                self.running.append(task)
                taken[0].served = task
                yield task, *taken

    def remove(self, task: Task) -> None:
        """Forget a task; its slot is free, and keeps its cache."""
        if task.slot is not None:
            self.running.remove(task)
            task.slot.busy = False
        elif task in self.waiting:
            self.waiting.remove(task)

    def next_parts(self) -> list[Part]:
        """Return what is to be evaluated now; empty if nothing runs."""
        running = self._turn()
        if len(running) > self.n_batch:  # a tiny n_batch: take turns
            chosen = running[: self.n_batch]
            self.running = [task for task in self.running if task not in chosen] + chosen
            return [_part(task, 1) for task in chosen]
        parts = [_part(task, 1) for task in running if not task.n_left]
        prompts = [task for task in running if task.n_left]
        if prompts:
            most = self.n_batch if len(running) == 1 else self._n_ubatch
            shares = share([task.n_next for task in prompts], max(most - len(parts), 1))
            parts += [_part(task, n) for task, n in zip(prompts, shares, strict=True) if n]
        return parts

    def _turn(self) -> list[Task]:
        """Return the running ones of one kind: the other kind than last time, if there are both."""
        kinds = {task.embeds for task in self.running}
        if len(kinds) < 2:
            return self.running
        self._embeds = not self._embeds
        return [task for task in self.running if task.embeds == self._embeds]


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
        outputs=np.array(
            [end - n + i for end, n, part in zip(ends, counts, parts, strict=True) for i in part.outputs], np.int32
        ),
    )


def _part(task: Task, n: int) -> Part:
    slot = task.slot
    assert slot is not None  # it runs
    if not task.n_left:
        return Part(task, slot, np.array([task.last], np.int32), range(1))
    tokens = task.prompt[task.n_done : task.n_done + n]
    return Part(task, slot, tokens, task.outputs(len(tokens)))
