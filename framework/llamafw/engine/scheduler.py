"""Decides which request gets a slot and which tokens are evaluated next.

Each step evaluates one token of every sequence that generates, then prompt tokens up to the step's limit: ``n_batch``
if only one sequence runs, otherwise ``n_ubatch``, so that a long prompt does not delay other requests' tokens much.
The oldest prompt gets half of the space for prompts, and the prompts with the fewest tokens left get the rest. A short
question therefore does not wait for a long document, and the document does not wait for many short questions.

If the prompt of a waiting request begins like one that is being evaluated, it waits until that part is in the cache,
and copies it. So several chats with one long system prompt evaluate it once. A free slot is reserved for it meanwhile.

Scheduling never changes a response, because a token's logits do not depend on the rest of the batch. Embeddings never
share a step with generations, because a backend computes either hidden states or logits; if both run, they alternate.
Tokens that a slot has lost are evaluated again like a prompt, before its task continues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llamafw.engine.slots import MIN_TOKENS_TO_COPY, Slot, Slots, common_prefix
from llamafw.engine.task import Task
from llamafw.types import Batch, Ints


@dataclass(frozen=True, slots=True)
class BatchPart:
    """One task's share of a step."""

    task: Task
    slot: Slot
    tokens: Ints  # they continue the slot's cache
    outputs: range  # which of them need an output row
    repeats: bool = False  # the slot had lost these tokens; they are not new to the task


class Scheduler:
    """Tasks that wait for a slot, in order of arrival, and tasks that run.

    Parameters
    ----------
    slots : Slots
        The slots to assign.
    n_batch, n_ubatch : int
        Maximum number of tokens per step if one sequence runs, and if several do.
    continuous : bool
        False: waiting requests start only when no sequence generates.
    whole_texts : bool
        Never divide a prompt. None may be longer than ``n_batch``.
    copies_prefixes : bool
        Whether a slot can get the start of a prompt from another slot.
    """

    def __init__(
        self,
        slots: Slots,
        n_batch: int,
        n_ubatch: int,
        *,
        continuous: bool = True,
        whole_texts: bool = False,
        copies_prefixes: bool = False,
    ) -> None:
        self.waiting: deque[Task] = deque()
        self.running: list[Task] = []  # oldest first
        self._slots, self.n_batch, self._n_ubatch = slots, n_batch, min(n_ubatch, n_batch)
        self._continuous, self._divide = continuous, divide_whole if whole_texts else divide
        self._copies_prefixes = copies_prefixes
        self._last_output = "logits"  # what the last step computed if tasks of both kinds ran

    @property
    def idle(self) -> bool:
        """Whether there are no tasks."""
        return not (self.running or self.waiting)

    def admit(self) -> Iterator[tuple[Task, Slot]]:
        """Move tasks from waiting to running while slots are free.

        A task that waits for a particular slot does not block the tasks behind it.

        Yields
        ------
        task : Task
            A task that starts.
        slot : Slot
            Its slot.
        """
        if not self._continuous and any(not task.n_left for task in self.running):
            return
        n_free = self._slots.n_free()
        for task in list(self.waiting):
            if n_free <= 0:
                return
            if self._is_read_by_another(task):
                n_free -= 1
                continue
            request = task.request
            slot = self._slots.take(task.prompt[:-1], request.id_slot, cache_prompt=request.cache_prompt)
            if slot is not None:
                self.waiting.remove(task)
                self.running.append(task)
                slot.task = task
                n_free -= 1
                yield task, slot

    def _is_read_by_another(self, task: Task) -> bool:
        """Return whether a running task is about to evaluate a long part of a waiting task's prompt."""
        if not self._copies_prefixes or not task.request.cache_prompt:
            return False
        prompt = task.prompt[:-1]
        coming = {other.slot: n for other in self.running if other.n_left and (n := _n_coming(other, prompt))}
        if not coming:
            return False
        n_now = max((slot.n_reused(prompt) for slot in self._slots.all if slot not in coming), default=0)
        return max(coming.values()) - n_now >= MIN_TOKENS_TO_COPY

    def common_starts(self, task: Task) -> set[int]:
        """Return how many tokens of a running task's prompt each waiting task begins with, if these are many."""
        if not self._copies_prefixes or not task.n_left:
            return set()
        readers = (other for other in self.waiting if other.request.cache_prompt)
        lengths = (common_prefix(task.prompt, reader.prompt[:-1]) for reader in readers)
        return {n for n in lengths if n >= MIN_TOKENS_TO_COPY}

    def remove(self, task: Task) -> None:
        """Remove a task and free its slot.

        The slot keeps its cache.
        """
        if task.slot is not None:
            self.running.remove(task)
            task.slot.release()
        elif task in self.waiting:
            self.waiting.remove(task)

    def next_parts(self) -> list[BatchPart]:
        """Return what to evaluate now; empty if no task runs."""
        running = self._running_of_one_kind()
        if len(running) > self.n_batch:  # a tiny n_batch: take turns
            chosen = running[: self.n_batch]
            self.running = [task for task in self.running if task not in chosen] + chosen
            return [_part(task, 1) for task in chosen]

        prompts = [task for task in running if _n_next(task)]
        parts = [_part(task, 1) for task in running if task not in prompts]
        if prompts:
            max_tokens = self.n_batch if len(running) == 1 else self._n_ubatch
            shares = self._divide([_n_next(task) for task in prompts], max(max_tokens - len(parts), 1))
            parts += [_part(task, n) for task, n in zip(prompts, shares, strict=True) if n]
        return parts

    def _running_of_one_kind(self) -> list[Task]:
        """Return the running tasks that need the same output; alternate between the two kinds if both run."""
        if len({task.output for task in self.running}) < 2:
            return self.running
        self._last_output = "logits" if self._last_output == "hidden" else "hidden"
        return [task for task in self.running if task.output == self._last_output]


def divide(n_left: Sequence[int], n_free: int) -> list[int]:
    """Return how many tokens of each prompt to evaluate now.

    Parameters
    ----------
    n_left : sequence of int
        Tokens left of each prompt, oldest prompt first.
    n_free : int
        Number of tokens to hand out.
    """
    shares = [0] * len(n_left)
    by_length = sorted(range(1, len(n_left)), key=n_left.__getitem__)
    for i, limit in [(0, (n_free + 1) // 2), *((i, n_free) for i in by_length), (0, n_free)]:
        n = min(n_left[i] - shares[i], limit, n_free)
        shares[i] += n
        n_free -= n
    return shares


def divide_whole(n_left: Sequence[int], n_free: int) -> list[int]:
    """Return how many tokens of each prompt to evaluate now if prompts cannot be divided: all of them, or none.

    The oldest prompt is always evaluated; of the others, the shortest ones that fit. The parameters are those of
    `divide`.
    """
    shares = [n_left[0], *([0] * (len(n_left) - 1))]
    n_free -= n_left[0]
    for i in sorted(range(1, len(n_left)), key=n_left.__getitem__):
        if n_left[i] <= n_free:
            shares[i] = n_left[i]
            n_free -= n_left[i]
    return shares


def as_batch(parts: Sequence[BatchPart]) -> Batch:
    """Return the batch of one forward pass."""
    counts = [len(part.tokens) for part in parts]
    ends = np.cumsum(counts)
    positions = [np.arange(part.slot.n, part.slot.n + len(part.tokens)) for part in parts]
    outputs = [end - n + i for end, n, part in zip(ends, counts, parts, strict=True) for i in part.outputs]
    return Batch(
        tokens=np.concatenate([part.tokens for part in parts]),
        positions=np.concatenate(positions).astype(np.int32),
        slots=np.repeat(np.array([part.slot.id for part in parts], np.int32), counts),
        outputs=np.array(outputs, np.int32),
    )


def _n_coming(task: Task, prompt: Ints) -> int:
    """Return how many leading tokens of ``prompt`` a running task's slot will have; 0 if it has them already."""
    slot = task.slot
    assert slot is not None  # the task is running
    n = common_prefix(task.prompt, prompt)
    if slot.cuts is not None:
        n = max((mark for mark in slot.marks if mark <= n), default=0)
    return n if n > slot.n else 0


def _n_next(task: Task) -> int:
    """Return how many tokens the next step may evaluate like a prompt; 0: the task generates."""
    slot = task.slot
    assert slot is not None  # the task is running
    return min(len(slot.lost) or task.n_next, slot.n_to_mark)


def _part(task: Task, n: int) -> BatchPart:
    slot = task.slot
    assert slot is not None  # as above
    if len(slot.lost):
        return BatchPart(task, slot, slot.lost[:n], range(0), repeats=True)
    if not task.n_left:
        return BatchPart(task, slot, np.array([task.last], np.int32), range(1))
    tokens = task.prompt[task.n_done : task.n_done + n]
    return BatchPart(task, slot, tokens, task.outputs(len(tokens)))
