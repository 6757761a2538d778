"""A simulation of the engine thread: the real scheduler, requests without content, and a clock that only steps move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from llamafw import GenerateRequest, Sender
from llamafw.engine.fair_shares import PROMPT_COST, RESPONSE_COST
from llamafw.engine.pausing import Pause
from llamafw.engine.scheduler import BatchPart, Scheduler
from llamafw.engine.slots import NO_TOKENS, Slot, Slots

StepCost = Callable[[Sequence[BatchPart]], float]
"""From the parts of a step to its duration in seconds."""


def one_second(parts: Sequence[BatchPart]) -> float:
    """Return the duration of a step if all steps take one second."""
    return 1.0


class SimulatedTask:
    """A request that draws a number of tokens; an `llamafw.engine.task.Task` as far as the scheduler knows it."""

    output: Literal["logits"] = "logits"
    adapters, types, n_cache_reuse, n_draftable, last, draft = (), None, 0, 0, 0, NO_TOKENS

    def __init__(
        self,
        name: str = "",
        priority: int = 0,
        user: str = "",
        *,
        n_prompt: int = 1,
        n_response: int = 1,
        at: float = 0,
    ) -> None:
        self.name, self.arrives, self.n_response = name, at, n_response
        self.request = GenerateRequest((), cache_prompt=False, sender=Sender(priority, "", user))
        self.prompt = np.zeros(n_prompt, np.int32)
        self.slot: Slot | None = None
        self.level = priority
        self.paused: Pause | None = None
        self.n_done = self.n_predicted = self.n_interruptions = 0
        self.started: float | None = None
        self.ended: float | None = None
        self.drawn_at: list[float] = []

    @property
    def n_left(self) -> int:
        return len(self.prompt) - self.n_done

    n_next = n_left

    def outputs(self, n: int) -> range:
        return range(n - 1 if n >= self.n_left else n, n)

    def pause(self, paused: Pause) -> None:
        self.slot, self.paused = None, paused

    def __repr__(self) -> str:
        return f"{self.name}({self.request.sender.priority}, {self.request.sender.user!r})"


class SimulatedEngine:
    """Runs requests; all times are seconds since its start.

    Parameters
    ----------
    n_slots : int
        Number of slots.
    cost : callable
        The duration of a step.
    options
        Those of the `Scheduler`.
    """

    def __init__(
        self, n_slots: int, cost: StepCost = one_second, *, n_batch: int = 2048, n_ubatch: int = 512, **options: Any
    ) -> None:
        self.now, self.cost, self._slots = 0.0, cost, Slots(n_slots, 2**16)
        self.scheduler = Scheduler(self._slots, n_batch, n_ubatch, clock=lambda: self.now, **options)
        self.order: list[SimulatedTask] = []  # tasks in the order in which they got slots first

    def run(
        self,
        tasks: Iterable[SimulatedTask],
        until: float = 1e6,
        next_task: Callable[[SimulatedTask], SimulatedTask | None] = lambda task: None,
    ) -> None:
        """Run all requests until they have ended, or until a time.

        ``next_task`` returns the request that arrives when another one ends.
        """
        self._next_task = next_task
        self._coming = coming = sorted(tasks, key=lambda task: task.arrives)
        while (coming or self.scheduler.running or len(self.scheduler.waiting)) and self.now < until:
            if not self.scheduler.running and not len(self.scheduler.waiting):
                self.now = max(self.now, coming[0].arrives)
            while coming and coming[0].arrives <= self.now:
                task: Any = coming.pop(0)
                self.scheduler.add(task)
            self.step()

    def step(self) -> None:
        """Do what the worker does in a step."""
        for task in list(self.scheduler.to_interrupt(lambda task: True)):
            self._interrupt(task)
        for task, slot in self.scheduler.admit():
            self._begin(task, slot)
        parts = self.scheduler.next_parts()
        seconds = self.cost(parts)
        self.now += seconds
        self.scheduler.record(parts, seconds)
        for part in parts:
            self._advance(part)

    def _begin(self, task: Any, slot: Slot) -> None:
        task.slot = slot
        slot.shorten(0)
        if task.paused is not None:
            slot.lost, task.paused = task.paused.tokens[:-1], None
            return
        self.scheduler.charge(task, PROMPT_COST * task.n_left)
        if task.started is None:
            task.started = self.now
            self.order.append(task)

    def _interrupt(self, task: Any) -> None:
        slot: Slot = task.slot
        tokens = np.zeros(slot.n + len(slot.lost) + 1, np.int32)
        self.scheduler.interrupt(task, Pause(tokens, 0, slot.n, slot.n, None))
        task.n_interruptions += 1

    def _advance(self, part: BatchPart) -> None:
        task: Any = part.task
        part.slot.extend(part.tokens)
        if part.repeats:
            return
        task.n_done = min(task.n_done + len(part.tokens), len(task.prompt))
        if len(part.outputs):
            task.n_predicted += 1
            task.drawn_at.append(self.now)
            self.scheduler.charge(task, RESPONSE_COST)
        if task.n_predicted == task.n_response:
            task.ended = self.now
            self.scheduler.remove(task)
            task.slot = None
            if (following := self._next_task(task)) is not None:
                following.arrives = self.now
                self._coming.insert(0, following)
