"""What is kept of an interrupted task, so that it continues later as if nothing had happened.

The task itself keeps its text, its samplers, its grammar and its stream. Its cache goes to the prompt cache, like that
of any slot that is about to be overwritten. If a part of it is no longer there when the task continues, that part is
evaluated again. This gives the same values, unless parts of the context were moved or the backend is not exact; in
these cases the task keeps the state of its cache itself, which counts towards the limit of the prompt cache. A task is
not interrupted if there is no space for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.slots import MIN_TOKENS_TO_COPY, Slot
from llamafw.errors import FAULTS
from llamafw.interfaces import Backend
from llamafw.types import Bytes, Ints

if TYPE_CHECKING:
    from llamafw.engine.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Pause:
    """The context of a task that waits in order to continue."""

    tokens: Ints  # of the context, and the one to evaluate next
    n_stable: int  # as in `Slot`
    n_exact: int  # as in `Slot`
    n_cached: int  # tokens at the start that were in the cache
    state: Bytes | None  # of the cache; None: it can be evaluated again


def pause(slot: Slot, following: int, backend: Backend, prompt_cache: PromptCache) -> Pause:
    """Return the context of the task in a slot, and save its cache.

    If it can be evaluated again, a failure to save it is logged. Otherwise, whatever the backend raises passes through.

    Parameters
    ----------
    slot : Slot
        The slot.
    following : int
        The token that the task evaluates next.
    backend : Backend
        Holds the cache.
    prompt_cache : PromptCache
        Receives its state.
    """
    cached = slot.tokens[: slot.n].copy()
    state = None
    if not _is_reproducible(slot, backend):
        state = backend.save(slot.id, slot.n)
    else:
        try:
            if _is_worth_saving(slot, cached, backend, prompt_cache):
                prompt_cache.add(cached, backend.save(slot.id, slot.n), slot.cuts, slot.adapters)
        except FAULTS:
            log.exception("the cache of slot %d cannot be saved", slot.id)
    tokens = np.concatenate([cached, slot.lost, np.array([following], np.int32)])
    return Pause(tokens, slot.n_stable, slot.n_exact, slot.n, state)


def n_bytes_to_keep(slot: Slot, backend: Backend) -> int:
    """Return the size of the state that the task in a slot must keep if it is interrupted; 0 if it need not."""
    return 0 if _is_reproducible(slot, backend) else backend.state_size(slot.n)


def n_bytes_kept(tasks: Iterable[Task]) -> int:
    """Return the size of the states that tasks keep."""
    states = (task.paused.state for task in tasks if task.paused is not None)
    return sum(state.nbytes for state in states if state is not None)


def _is_reproducible(slot: Slot, backend: Backend) -> bool:
    """Return whether evaluating a slot's tokens again gives the cache that it has."""
    return slot.n_exact >= slot.n and backend.exact


def _is_worth_saving(slot: Slot, cached: Ints, backend: Backend, prompt_cache: PromptCache) -> bool:
    if len(cached) < MIN_TOKENS_TO_COPY or prompt_cache.holds(cached, slot.adapters):
        return False
    return prompt_cache.accepts(backend.state_size(len(cached)))
