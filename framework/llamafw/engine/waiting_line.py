"""The order in which waiting requests get slots: by priority, then by fair shares, then by arrival.

The smallest priority number comes first. Priorities age, so that each request gets its turn, as in the schedulers of
operating systems: while requests of a priority wait and none of them gets a slot, 1 is subtracted from its number for
every ``aging`` seconds. When one of them gets a slot, the priority has its own number again. Aging applies to a
priority as a whole and not to single requests, so a user with many waiting requests gains nothing from it.

Among the requests of a priority, `FairShares` decides. Each priority has its own. Requests that were interrupted are
first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from time import perf_counter

from llamafw.engine.fair_shares import FairShares
from llamafw.engine.task import Task


class WaitingLine(Collection[Task]):
    """The requests that wait for a slot.

    Parameters
    ----------
    aging : float
        Seconds after which a priority that waits comes forward by 1; positive.
    clock : callable
        Returns seconds since any point in time.
    """

    def __init__(self, aging: float, clock: Callable[[], float] = perf_counter) -> None:
        self._aging, self._clock = aging, clock
        self._shares: dict[int, FairShares] = {}  # by priority
        self._waiting: dict[int, dict[Task, float]] = {}  # by priority: tasks in order of arrival, with that time
        self._last_starts: dict[int, float] = {}  # by priority

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __contains__(self, task: object) -> bool:
        return any(task in tasks for tasks in self._waiting.values())

    def __iter__(self) -> Iterator[Task]:
        for tasks in self._waiting.values():
            yield from tasks

    def enter(self, task: Task) -> None:
        """Add a new task."""
        self._shares.setdefault(task.request.sender.priority, FairShares()).enter(task.request.sender)
        self.append(task)

    def leave(self, task: Task) -> None:
        """Forget a task that has ended, or was cancelled; it may have waited."""
        if task in self:
            self.remove(task)
        self._shares[task.request.sender.priority].leave(task.request.sender)

    def charge(self, task: Task, cost: float) -> None:
        """Record what was computed for a task; see `FairShares`."""
        self._shares[task.request.sender.priority].charge(task.request.sender, cost)

    def append(self, task: Task) -> None:
        """Add a task that waits from now on."""
        self._waiting.setdefault(task.request.sender.priority, {})[task] = self._clock()

    def remove(self, task: Task) -> None:
        """Remove a task that no longer waits."""
        priority = task.request.sender.priority
        del self._waiting[priority][task]
        if not self._waiting[priority]:
            del self._waiting[priority]

    def start(self, task: Task) -> None:
        """Remove a task that gets a slot; its priority falls back."""
        task.level = self._level(task.request.sender.priority)
        self._last_starts[task.request.sender.priority] = self._clock()
        self.remove(task)

    def _level(self, priority: int) -> int:
        """Return the number that a priority with waiting requests counts as now."""
        first = next(iter(self._waiting[priority].values()))
        waited = self._clock() - max(first, self._last_starts.get(priority, first))
        return priority - int(waited / self._aging)

    def in_order(self) -> Iterator[Task]:
        """Yield all tasks, the next one first."""
        for priority in sorted(self._waiting, key=lambda priority: (self._level(priority), priority)):
            rank = self._shares[priority].rank
            yield from sorted(
                self._waiting[priority], key=lambda task: (task.paused is None, *rank(task.request.sender))
            )

    @property
    def first_priority(self) -> int | None:
        """The smallest priority of those that wait; None: nothing waits."""
        return min(self._waiting, default=None)

    def lengths(self) -> dict[int, int]:
        """Return how many tasks wait, by priority."""
        return {priority: len(tasks) for priority, tasks in self._waiting.items()}
