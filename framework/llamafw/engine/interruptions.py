"""Interrupts running requests when more urgent ones need their slots, and continues them later.

The scheduler decides which ones; `pausing` has what is kept of them.
"""

from __future__ import annotations

import logging

from llamafw.engine.pausing import n_bytes_to_keep, pause
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.scheduler import Scheduler
from llamafw.engine.slot_caches import SlotCaches
from llamafw.engine.slots import Slot
from llamafw.engine.speculation import Speculation
from llamafw.engine.stats import Counters
from llamafw.engine.task import Task
from llamafw.errors import FAULTS
from llamafw.interfaces import Backend

log = logging.getLogger(__name__)


class Interruptions:
    """Called on the engine thread, between two steps.

    Parameters
    ----------
    backend : Backend
        Runs the model.
    scheduler : Scheduler
        Chooses the requests.
    caches : SlotCaches
        The caches of all slots.
    prompt_cache : PromptCache
        Receives the states of slots that are given up.
    speculation : Speculation
        Proposes drafts.
    counters : Counters
        Count the interruptions.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        caches: SlotCaches,
        prompt_cache: PromptCache,
        speculation: Speculation,
        counters: Counters,
    ) -> None:
        self._backend, self._scheduler, self._caches, self._prompt_cache = backend, scheduler, caches, prompt_cache
        self._speculation, self._counters = speculation, counters
        self._n_planned = 0  # size of the states that tasks will keep, in bytes

    def make(self) -> None:
        """Interrupt the tasks that must give their slots to more urgent ones now."""
        self._n_planned = 0
        for task in list(self._scheduler.to_interrupt(self._may_interrupt)):
            slot = task.slot
            assert slot is not None  # it is running
            following = int(task.prompt[task.n_done]) if task.n_left else task.last
            try:
                paused = pause(slot, following, self._backend, self._prompt_cache)
            except FAULTS:  # it keeps its slot
                log.exception("the cache of slot %d cannot be saved; its request is not interrupted", slot.id)
                self._scheduler.spare(task)
                continue
            self._speculation.pause(task)
            self._counters.preemptions[task.request.sender.priority] += 1
            self._scheduler.interrupt(task, paused)

    def _may_interrupt(self, task: Task) -> bool:
        """Return whether there is space for what a task must keep, and reserve it."""
        assert task.slot is not None  # it is running
        n_bytes = n_bytes_to_keep(task.slot, self._backend)
        if n_bytes and not self._prompt_cache.make_room(self._n_planned + n_bytes):
            return False
        self._n_planned += n_bytes
        return True

    def end(self, task: Task, slot: Slot) -> None:
        """Let a task continue in a slot.

        The cache of the slot is as it was when the task was interrupted, except for lost tokens. Whatever the backend
        raises passes through.
        """
        paused = task.paused
        assert paused is not None  # it was interrupted
        if paused.state is None:
            self._caches.prepare(slot, paused.tokens, cache_prompt=True, snapshots=True, adapters=task.adapters)
        else:
            self._caches.restore(slot, paused.tokens[: paused.n_cached], paused.state, task.adapters)
            slot.n_exact = paused.n_exact
        slot.n_stable, slot.lost = paused.n_stable, paused.tokens[slot.n : -1]
        task.resume(slot)
        self._speculation.resume(task)
