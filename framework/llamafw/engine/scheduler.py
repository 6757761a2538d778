"""Decides which request gets a slot and which tokens are evaluated next.

The order of waiting requests is that of `waiting_line`. If no slot is free, a request interrupts a running one with a
greater priority number, unless that one had waited so long that it counted as urgent enough when it got its slot; see
`pausing`.

Each step evaluates one token of every sequence that generates, with the tokens of its draft (see `speculation`), then
prompt tokens up to the step's limit: ``n_batch`` if only one sequence runs, otherwise ``n_ubatch`` or fewer, so that a
long prompt does not delay other requests' tokens much; see `prompt_budget`. Beside prompts, drafts get at most half of
the space. The oldest prompt gets half of the space for prompts, and those with the fewest tokens left get the rest. So
a short question does not wait for a long document, and the document does not wait for many short questions.

If the prompt of a waiting request begins like one that is being evaluated, it waits until that part is in the cache,
and copies it. So several chats with one long system prompt evaluate it once. A free slot is reserved for it meanwhile.

Scheduling never changes a response, because a token's logits do not depend on the rest of the batch. Embeddings never
share a step with generations, because a backend computes either hidden states or logits; if both run, they alternate.
Tokens that a slot has lost are evaluated again like a prompt, before or with the next token of its task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from time import perf_counter

import numpy as np

from llamafw.engine.pausing import Pause
from llamafw.engine.prompt_budget import PromptBudget
from llamafw.engine.slots import MIN_TOKENS_TO_COPY, NO_TOKENS, Slot, Slots, common_prefix
from llamafw.engine.task import Task
from llamafw.engine.waiting_line import WaitingLine
from llamafw.types import Batch, Floats, Ints, Strengths

ScalesOf = Callable[[Strengths], Floats]
"""Returns the scales of a token that is evaluated with adapters, ``(n_scales,)``."""


@dataclass(frozen=True, slots=True)
class BatchPart:
    """One task's share of a step."""

    task: Task
    slot: Slot
    tokens: Ints  # they continue the slot's cache
    outputs: range  # which of them need an output row
    repeats: bool = False  # the slot had lost these tokens; they are not new to the task
    types: Ints | None = None  # of the tokens; None: all are 0
    n_draft: int = 0  # how many of the last tokens are a draft


class Scheduler:
    """Tasks that wait for a slot, and tasks that run.

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
    is_delayed : callable
        Returns whether a task that could start must wait for something else. A slot is reserved for it.
    aging : float
        See `WaitingLine`.
    clock : callable
        Returns seconds since any point in time.
    prompt_budget : PromptBudget, optional
        Limits the prompt tokens of steps that continue responses.
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
        is_delayed: Callable[[Task], bool] = lambda task: False,
        aging: float = inf,
        clock: Callable[[], float] = perf_counter,
        prompt_budget: PromptBudget | None = None,
    ) -> None:
        self.waiting = WaitingLine(aging, clock)
        self.running: list[Task] = []  # oldest first
        self._slots, self.n_batch, self._n_ubatch = slots, n_batch, min(n_ubatch, n_batch)
        self._continuous, self._divide = continuous, divide_whole if whole_texts else divide
        self._copies_prefixes, self._is_delayed = copies_prefixes, is_delayed
        self._prompt_budget, self._spared = prompt_budget, set[Task]()  # tasks that are never interrupted
        self._resumed: dict[Task, tuple[int, int]] = {}  # tasks that were interrupted, with their progress until then
        self._last_output = "logits"  # what the last step computed if tasks of both kinds ran

    def add(self, task: Task) -> None:
        """Let a task wait for a slot."""
        self.waiting.enter(task)

    def charge(self, task: Task, cost: float) -> None:
        """Record what was computed for a task; see `FairShares`."""
        self.waiting.charge(task, cost)

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
        n_free, seen = self._slots.n_free(), set[Task]()
        has_started = True
        while has_started and n_free > 0:  # each start changes the order
            has_started = False
            for task in self.waiting.in_order():
                if n_free <= 0:
                    return
                if task in seen:
                    continue
                seen.add(task)
                if self._must_wait(task):
                    n_free -= 1
                elif (slot := self._take_slot(task)) is not None:
                    n_free -= 1
                    has_started = True
                    yield task, slot
                    break

    def to_interrupt(self, may_interrupt: Callable[[Task], bool]) -> Iterator[Task]:
        """Yield the running tasks that must give their slots to more urgent ones now, and that ``may_interrupt``.

        A task that was interrupted before is left alone until it has done more than to evaluate lost tokens again.
        """
        running = [
            one
            for one in self.running
            if one.output == "logits" and one not in self._spared and self._resumed.get(one) != _progress(one)
        ]
        first, n_free = self.waiting.first_priority, self._slots.n_free()
        if not self._continuous or first is None or not any(task.level > first for task in running):
            return
        for task in self.waiting.in_order():
            priority, id_slot = task.request.sender.priority, task.request.id_slot
            if id_slot < 0 and n_free > 0:
                n_free -= 1
                continue
            lesser = [
                other
                for other in reversed(running)  # of equals, the one that started last is interrupted
                if other.level > priority and (id_slot < 0 or other.slot is self._slots.all[id_slot])
            ]
            if lesser and not self._must_wait(task):
                for chosen in sorted(lesser, key=lambda other: -other.level):
                    running.remove(chosen)
                    if may_interrupt(chosen):
                        yield chosen
                        break

    def spare(self, task: Task) -> None:
        """Never interrupt a running task."""
        self._spared.add(task)

    def interrupt(self, task: Task, paused: Pause) -> None:
        """Let a running task wait; its slot is free."""
        assert task.slot is not None  # it is running
        self.running.remove(task)
        task.slot.release()
        task.pause(paused)
        self.waiting.append(task)

    def _must_wait(self, task: Task) -> bool:
        """Return whether a task waits for something else than a slot."""
        return task.paused is None and (self._is_read_by_another(task) or self._is_delayed(task))

    def _take_slot(self, task: Task) -> Slot | None:
        """Give a slot to a waiting task if one is free that it may have."""
        request, paused = task.request, task.paused
        slot = self._slots.take(
            task.prompt[:-1] if paused is None else paused.tokens[:-1],
            request.id_slot,
            cache_prompt=request.cache_prompt or paused is not None,
            adapters=task.adapters,
            n_cache_reuse=task.n_cache_reuse if paused is None else 0,
        )
        if slot is not None:
            self.waiting.start(task)
            if paused is not None:
                self._resumed[task] = _progress(task)
            self.running.append(task)
            slot.task = task
        return slot

    def _is_read_by_another(self, task: Task) -> bool:
        """Return whether a running task is about to evaluate a long part of a waiting task's prompt."""
        if not self._copies_prefixes or not task.request.cache_prompt:
            return False
        prompt, adapters = task.prompt[:-1], task.adapters
        alike = (other for other in self.running if other.n_left and other.adapters == adapters)
        coming = {other.slot: n for other in alike if (n := _n_coming(other, prompt))}
        if not coming:
            return False
        n_now = max((slot.n_reused(prompt, adapters) for slot in self._slots.all if slot not in coming), default=0)
        return max(coming.values()) - n_now >= MIN_TOKENS_TO_COPY

    def common_starts(self, task: Task) -> set[int]:
        """Return how many tokens of a running task's prompt each waiting task begins with, if these are many."""
        if not self._copies_prefixes or not task.n_left:
            return set()
        readers = (one for one in self.waiting if one.request.cache_prompt and one.adapters == task.adapters)
        lengths = (common_prefix(task.prompt, reader.prompt[:-1]) for reader in readers)
        return {n for n in lengths if n >= MIN_TOKENS_TO_COPY}

    def remove(self, task: Task) -> None:
        """Remove a task and free its slot.

        The slot keeps its cache.
        """
        if task.slot is not None:
            self.running.remove(task)
            task.slot.release()
        elif task not in self.waiting:
            return
        self._resumed.pop(task, None)
        self._spared.discard(task)
        self.waiting.leave(task)

    def next_parts(self) -> list[BatchPart]:
        """Return what to evaluate now; empty if no task runs."""
        running = self._running_of_one_kind()
        if len(running) > self.n_batch:  # a tiny n_batch: take turns
            chosen = running[: self.n_batch]
            self.running = [task for task in self.running if task not in chosen] + chosen
            return [_part(task, 1) for task in chosen]

        prompts = [task for task in running if _n_next(task)]
        generating = [task for task in running if task not in prompts]
        n_free = max((self.n_batch if len(running) == 1 else self._n_ubatch) - len(generating), 0)
        n_prompts, responses = n_free, [task for task in running if _responds(task)]
        if self._prompt_budget is not None and 0 < len(responses) < len(running):
            depth = max(_position(task) for task in running if not _responds(task))
            n_prompts = self._prompt_budget.limit(responses, depth)
            if not n_prompts:
                prompts, n_prompts = [task for task in prompts if _responds(task)], n_free
        n_drafts = n_free // 2 if prompts else n_free
        parts: list[BatchPart] = []
        for task in generating:
            parts.append(_part(task, 1 + min(len(task.draft), n_drafts)))
            n_drafts -= len(parts[-1].tokens) - 1
        if prompts:
            n_free -= sum(len(part.tokens) - 1 for part in parts)
            shares = self._divide([_n_next(task) for task in prompts], max(min(n_free, n_prompts), 1))
            parts += [_part(task, n) for task, n in zip(prompts, shares, strict=True) if n]
        return parts

    def record(self, parts: Sequence[BatchPart], seconds: float) -> None:
        """Record how long the parts took that were evaluated; their tasks have not advanced yet."""
        if self._prompt_budget is None:
            return
        responses = [part.task for part in parts if _responds(part.task)]
        prompts = [part for part in parts if not _responds(part.task)]
        position = min((part.slot.n + len(part.tokens) / 2 for part in prompts), default=0.0)
        self._prompt_budget.record(responses, sum(len(part.tokens) for part in prompts), position, seconds)

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


def without_draft(part: BatchPart) -> BatchPart:
    """Return a part without its draft."""
    if not part.n_draft:
        return part
    part.task.draft = NO_TOKENS
    n = len(part.tokens) - part.n_draft
    return BatchPart(part.task, part.slot, part.tokens[:n], range(n - 1, n))


def as_batch(parts: Sequence[BatchPart], scales_of: ScalesOf) -> Batch:
    """Return the batch of one forward pass; it has scales if a token is evaluated with adapters."""
    counts = [len(part.tokens) for part in parts]
    ends = accumulate(counts)
    positions = [np.arange(part.slot.n, part.slot.n + len(part.tokens)) for part in parts]
    types = [np.zeros(n, np.int32) if part.types is None else part.types for n, part in zip(counts, parts, strict=True)]
    outputs = [end - n + i for end, n, part in zip(ends, counts, parts, strict=True) for i in part.outputs]
    return Batch(
        tokens=np.concatenate([part.tokens for part in parts]),
        positions=np.concatenate(positions).astype(np.int32),
        slots=np.repeat(np.array([part.slot.id for part in parts], np.int32), counts),
        outputs=np.array(outputs, np.int32),
        types=None if all(part.types is None for part in parts) else np.concatenate(types),
        scales=_scales(parts, counts, scales_of),
    )


def _scales(parts: Sequence[BatchPart], counts: Sequence[int], scales_of: ScalesOf) -> Floats | None:
    if not any(part.slot.adapters for part in parts):
        return None
    return np.repeat(np.stack([scales_of(part.slot.adapters) for part in parts]), counts, axis=0)


def _n_coming(task: Task, prompt: Ints) -> int:
    """Return how many leading tokens of ``prompt`` a running task's slot will have; 0 if it has them already."""
    slot = task.slot
    assert slot is not None  # the task is running
    n = common_prefix(task.prompt, prompt)
    if slot.cuts is not None:
        n = max((mark for mark in slot.marks if mark <= n), default=0)
    return n if n > slot.n else 0


def _progress(task: Task) -> tuple[int, int]:
    """Return what a task has done so far: tokens of the prompt, and tokens drawn."""
    return task.n_done, task.n_predicted


def _responds(task: Task) -> bool:
    """Return whether a running task generates, without many lost tokens to evaluate before."""
    assert task.slot is not None  # it is running
    return not task.n_left and len(task.slot.lost) < MIN_TOKENS_TO_COPY


def _position(task: Task) -> int:
    """Return how many tokens of a running task are cached."""
    assert task.slot is not None  # it is running
    return task.slot.n


def _n_next(task: Task) -> int:
    """Return how many tokens the next step may evaluate like a prompt; 0: the task generates."""
    slot = task.slot
    assert slot is not None  # the task is running
    n_lost = len(slot.lost)
    return min(n_lost + (not task.n_left) if n_lost else task.n_next, slot.n_to_mark)


def _part(task: Task, n: int) -> BatchPart:
    """Return a part of ``n`` tokens: lost ones, those of the prompt, or the last drawn token and its draft."""
    slot = task.slot
    assert slot is not None  # as above
    n_lost = len(slot.lost)
    if n <= n_lost:
        return BatchPart(task, slot, slot.lost[:n], range(0), repeats=True)
    if not task.n_left:
        task.draft = task.draft[: n - n_lost - 1]
        tokens = np.concatenate([slot.lost, np.array([task.last], np.int32), task.draft])
        return BatchPart(task, slot, tokens, range(n_lost, n), n_draft=len(task.draft))
    part = slice(task.n_done, task.n_done + n)
    tokens, types = task.prompt[part], None if task.types is None else task.types[part]
    return BatchPart(task, slot, tokens, task.outputs(len(tokens)), types=types)
