"""Decides whether another request may wait for a slot.

Used on the event loop, which does not know which requests have slots. It assumes that those with the smallest
priorities have them, as the engine thread arranges it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from llamafw.types import PRIORITIES, PriorityStats

_ALL = PRIORITIES.start  # the priority of the limit for all requests


class QueueLimits:
    """Counts requests by priority, and how many may wait.

    Parameters
    ----------
    n_slots : int
        Number of slots.
    max_queue : int
        How many requests may wait.
    by_priority : mapping of int to int
        Priority → how many requests with this or a greater number may wait.
    """

    def __init__(self, n_slots: int, max_queue: int, by_priority: Mapping[int, int]) -> None:
        limits = {_ALL: max_queue, **by_priority}
        self._n_slots, self._limits = n_slots, limits | {_ALL: min(max_queue, limits[_ALL])}
        self._n_active: Counter[int] = Counter()  # requests that wait or have slots, by priority

    def add(self, priority: int) -> None:
        """Count a request that has arrived."""
        self._n_active[priority] += 1

    def remove(self, priority: int) -> None:
        """Count a request that has ended."""
        self._n_active[priority] -= 1

    @property
    def n_active(self) -> int:
        """How many requests wait or have slots."""
        return self._n_active.total()

    def n_waiting(self, first: int) -> int:
        """Return how many requests with the priority ``first`` or a greater number wait."""
        n_before = sum(n for priority, n in self._n_active.items() if priority < first)
        return max(self.n_active - max(self._n_slots, n_before), 0)

    def full_for(self, priority: int) -> int | None:
        """Return the priority whose limit does not allow another request of ``priority``; None: it may wait."""
        for first, limit in self._limits.items():
            n_before = sum(n for other, n in self._n_active.items() if other < first)
            n_places = max(self._n_slots - n_before, 0) + limit
            if first <= priority and self.n_active - n_before >= n_places:
                return first
        return None

    def describe(self, first: int) -> str:
        """Return the message for a client whose request was refused because of the limit of a priority."""
        n = self.n_waiting(first)
        noun, verb = ("request", "is") if n == 1 else ("requests", "are")
        if first == _ALL:
            return f"the queue is full: {n} {noun} {verb} waiting (see --max-queue)"
        which = f"{n} {noun} of the priority {first} or a greater number {verb} waiting"
        return f"the queue is full: {which} (see --max-queue-priority)"

    def stats(
        self, running: Mapping[int, int], rejected: Mapping[int, int], preemptions: Mapping[int, int]
    ) -> dict[int, PriorityStats]:
        """Return the current load by priority, for all priorities that requests have had.

        Parameters
        ----------
        running, rejected, preemptions : mapping of int to int
            How many requests have slots, how many were refused since the start, and how often one was interrupted.
        """
        return {
            priority: PriorityStats(
                waiting=max(self._n_active[priority] - running.get(priority, 0), 0),
                rejected=rejected.get(priority, 0),
                preemptions=preemptions.get(priority, 0),
            )
            for priority in sorted({0, *self._n_active, *rejected})
        }
