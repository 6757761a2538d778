"""Reads states from the disk for requests that wait for a slot, while other requests go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.prompt_cache import Entry, PromptCache
from llamafw.engine.slots import MIN_TOKENS_TO_COPY, Slot
from llamafw.engine.task import Task


class DiskReads:
    """The states that waiting requests read.

    Called on the engine thread.

    Parameters
    ----------
    disk : DiskCache or None
        The states. None: requests never wait.
    prompt_cache : PromptCache
        The states in memory.
    slots : sequence of Slot
        All slots.
    post : callable
        Calls a function on the engine thread, soon.
    """

    def __init__(
        self,
        disk: DiskCache | None,
        prompt_cache: PromptCache,
        slots: Sequence[Slot],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._disk, self._prompt_cache, self._slots, self._post = disk, prompt_cache, slots, post
        self._reading: set[Task] = set()
        self._results: dict[Task, Entry | None] = {}

    def __bool__(self) -> bool:
        """Return whether a request waits for the disk."""
        return bool(self._reading)

    def delays(self, task: Task) -> bool:
        """Return whether a task that could start now waits for the disk.

        When it is called for a task for the first time, reading begins if a state saves many tokens.
        """
        if self._disk is None or task in self._results:
            return False
        if task not in self._reading:
            self._begin(self._disk, task)
        return task in self._reading

    def take(self, task: Task) -> Entry | None:
        """Return the state that was read for a task that starts; None if there is none."""
        return self._results.pop(task, None)

    def forget(self, task: Task) -> None:
        """Forget a task that ended before it started."""
        self._reading.discard(task)
        self._results.pop(task, None)

    def _begin(self, disk: DiskCache, task: Task) -> None:
        self._results[task] = None
        if not task.request.cache_prompt:
            return
        prompt, adapters = task.prompt[:-1], task.adapters
        state, n_on_disk = disk.best(prompt, adapters)
        n_in_slots = max(slot.n_reused(prompt, adapters) for slot in self._slots)
        n_in_memory = max(self._prompt_cache.best(prompt, adapters)[1], n_in_slots)
        if state is None or n_on_disk - n_in_memory < MIN_TOKENS_TO_COPY:
            return
        del self._results[task]
        self._reading.add(task)
        disk.read(state, lambda entry: self._post(partial(self._end, task, entry)))

    def _end(self, task: Task, entry: Entry | None) -> None:
        if task in self._reading:
            self._reading.remove(task)
            self._results[task] = entry
