"""Runs the steps of the engine thread, with the scheduler, the slots and the backend.

If a step fails, the worker finds out which request is at fault and continues with the others. It is independent of
event loops: tasks and jobs send their results themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from llamafw.engine import debug_log
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.scheduler import BatchPart, Scheduler, as_batch
from llamafw.engine.slot_caches import SlotCaches
from llamafw.engine.slots import Slot, Slots
from llamafw.engine.stats import Counters
from llamafw.engine.task import Task
from llamafw.errors import FAULTS, GenerationError, RequestError, Unavailable
from llamafw.interfaces import Backend
from llamafw.plugins.failures import Place, describe
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw.types import Batch, Floats, Ints

log = logging.getLogger(__name__)

_NO_OUTPUTS = np.empty(0, np.int32)
_MANY = 2**62  # more tokens than any vocabulary has
_MIN_SAVING = 8  # the most likely tokens are requested if they are at most an eighth of the vocabulary

ReportFailure = Callable[[BaseException, Place], str | None]
"""Counts a failure; returns the plugin that caused it, or None if no plugin did."""


def ignore_blame(error: BaseException, place: Place) -> None:
    """Return None: no plugin is responsible."""


@dataclass(slots=True, eq=False)
class SlotJob:
    """Work on one slot's cache that must wait until the slot is free."""

    slot: int
    work: Callable[[Slot], Any]
    send: Callable[[Any], None]  # receives the result or a RequestError
    arrived: float
    cancelled: bool = False  # the client disconnected


class Worker:
    """The part of the engine that runs on the engine thread.

    Parameters
    ----------
    backend : Backend
        Runs the model.
    slots : Slots
        Its slots.
    scheduler : Scheduler
        Assigns the slots.
    cache : PromptCache
        Receives the states of slots that are about to be overwritten.
    n_vocab : int
        Number of tokens that may be drawn.
    timeout : float
        Seconds that a request may wait for a slot.
    log_caches : bool
        Log the slots' contents after every step.
    report_failure : callable
        See `ReportFailure`.
    """

    def __init__(
        self,
        backend: Backend,
        slots: Slots,
        scheduler: Scheduler,
        cache: PromptCache,
        n_vocab: int,
        timeout: float,
        *,
        log_caches: bool = False,
        report_failure: ReportFailure = ignore_blame,
    ) -> None:
        self.slots, self.scheduler, self.cache = slots, scheduler, cache
        self.caches = SlotCaches(backend, slots.all, cache)
        self.jobs: list[SlotJob] = []
        self.counters = Counters()
        self._backend, self._buffers = backend, CandidateBuffers(n_vocab)
        self._top_logits = getattr(backend, "top_logits", None)  # of a `CandidateBackend`
        self._timeout, self._log_caches, self._report_failure = timeout, log_caches, report_failure

    @property
    def idle(self) -> bool:
        """Whether there are neither tasks nor jobs."""
        return self.scheduler.idle and not self.jobs

    def step(self) -> None:
        """Run pending jobs, admit and expire tasks, then run one forward pass if there are tokens to evaluate."""
        self._run_jobs()
        self._admit()
        self._expire()
        self._shift_full_contexts()
        self._evaluate(self.scheduler.next_parts())
        if self._log_caches:
            log.info("%s", debug_log.describe_caches(self.slots.all, self.cache))

    def drop(self, task: Task) -> None:
        """Remove a task that has ended or was cancelled."""
        timings = task.timings()
        if timings is not None and task.slot is not None:
            self.counters.count_request(task.arrived, timings)
        self.scheduler.remove(task)

    # --- jobs on slots

    def evaluate_prompt(self, slot: Slot, prompt: Ints) -> None:
        """Replace the contents of a free slot by ``prompt``."""
        self.caches.clear(slot)
        self.caches.plan_snapshots(slot, prompt)
        try:
            self._evaluate_tokens(slot, prompt)
        except FAULTS:
            self.caches.clear_after_failure(slot)
            raise
        finally:
            slot.release()

    def _evaluate_tokens(self, slot: Slot, tokens: Ints) -> None:
        """Run forward passes of one slot, without outputs, until all ``tokens`` are cached."""
        while len(tokens):
            part = tokens[: min(self.scheduler.n_batch, slot.n_to_mark)]
            positions = np.arange(slot.n, slot.n + len(part), dtype=np.int32)
            self._backend.forward(Batch(part, positions, np.full_like(part, slot.id), _NO_OUTPUTS))
            self.caches.extend(slot, part)
            tokens = tokens[len(part) :]

    def _run_jobs(self) -> None:
        for job in self.jobs.copy():
            busy = self.slots.all[job.slot].busy
            is_late = perf_counter() - job.arrived > self._timeout
            if busy and not is_late and not job.cancelled:
                continue

            self.jobs.remove(job)
            if job.cancelled:
                continue
            if busy:
                job.send(Unavailable(f"slot {job.slot} did not become free within {self._timeout:g} s"))
                continue
            try:
                result = job.work(self.slots.all[job.slot])
            except RequestError as error:
                result = error
            except FAULTS as error:
                result = self._log_failure(error, f"the cache of slot {job.slot} cannot be used")
            job.send(result)

    # --- before a forward pass

    def _expire(self) -> None:
        now = perf_counter()
        for task in [*self.scheduler.waiting, *self.scheduler.running]:
            if now > task.deadline:
                task.expire()
            elif task.slot is None and now - task.arrived > self._timeout:
                task.fail(Unavailable(f"no slot became free within {self._timeout:g} s"))
            if task.done:
                self.drop(task)

    def _admit(self) -> None:
        for task in self.scheduler.running:
            self._mark_common_starts(task)
        for task, slot in self.scheduler.admit():
            try:
                n = self.caches.prepare(
                    slot,
                    task.prompt,
                    cache_prompt=task.request.cache_prompt,
                    snapshots=task.output == "logits",
                    n_answer_start=task.n_answer_start,
                )
            except FAULTS as error:
                task.begin(slot, 0)
                self._abort(task, slot, error, f"the cache of slot {slot.id} cannot be prepared")
            else:
                task.begin(slot, n)
                self._mark_common_starts(task)

    def _mark_common_starts(self, task: Task) -> None:
        """Let the slot of a running task keep what waiting tasks begin with; see `SlotCaches.add_marks`."""
        if task.slot is not None and not self._backend.can_cut and task.output == "logits":
            self.caches.add_marks(task.slot, self.scheduler.common_starts(task))

    def _shift_full_contexts(self) -> None:
        for task in list(self.scheduler.running):
            slot = task.slot
            if slot is None or task.n_left or slot.n < len(slot.tokens):  # with lost tokens a slot is not full
                continue
            n = task.n_discard()
            if not n:
                task.end_at_full_context()
                self.drop(task)
                continue
            try:
                self.caches.shift(slot, task.n_keep, n)
            except FAULTS as error:
                self._abort(task, slot, error, f"the backend cannot shift the context of slot {slot.id}")
            else:
                task.note_shift()

    # --- the forward pass

    def _evaluate(self, parts: Sequence[BatchPart]) -> None:
        """Run one forward pass and hand out its rows.

        If it fails, run each part alone.
        """
        if not parts:
            return
        batch = as_batch(parts)
        try:
            rows, ids = self._forward(batch, parts)
            if len(rows) != len(batch.outputs):
                raise ValueError(f"{len(rows)} rows for {len(batch.outputs)} outputs")
        except FAULTS as error:
            if len(parts) == 1:
                task, slot = parts[0].task, parts[0].slot
                summary = f"the backend failed on {len(batch.tokens)} tokens of slot {slot.id}"
                return self._abort(task, slot, error, summary)
            message = "the backend failed on a batch of %d sequences (%s); trying each alone"
            log.warning(message, len(parts), describe(error))
            for part in parts:
                self._retry(part)
            return

        self.counters.count_pass(len(parts))
        first = 0
        for part in parts:
            self.caches.extend(part.slot, part.tokens)
            if part.repeats:
                continue
            part.task.advance(len(part.tokens))
            here = slice(first, first + len(part.outputs))
            self._hand_out(part.task, rows[here], None if ids is None else ids[here])
            first = here.stop

    def _forward(self, batch: Batch, parts: Sequence[BatchPart]) -> tuple[Floats, Ints | None]:
        """Return the output rows of a batch, and the tokens of their logits if these are only the most likely ones."""
        if parts[0].task.output == "hidden":
            return self._backend.hidden(batch), None
        n_top = [part.task.n_top for part in parts if len(part.outputs)] if self._top_logits else []
        n = max((_MANY if n is None else n for n in n_top), default=_MANY)
        n_vocab = len(self._buffers.ids)
        if n > n_vocab // _MIN_SAVING:
            return self._backend.forward(batch), None
        ids, rows = self._top_logits(batch, n, n_vocab)  # type: ignore[misc]  # n_top is empty without it
        return rows, ids

    def _retry(self, part: BatchPart) -> None:
        try:
            n_lost = self.caches.undo(part.slot)
            self._evaluate_tokens(part.slot, part.slot.lost[:n_lost])
        except FAULTS as error:
            return self._abort(part.task, part.slot, error, f"slot {part.slot.id} cannot be reset")
        self._evaluate([part])

    def _hand_out(self, task: Task, rows: Floats, ids: Ints | None) -> None:
        """Pass rows to their task; a failure ends this task only."""
        if len(rows) or not task.n_left:
            try:
                task.take(rows, self._buffers, ids)
            except RequestError as error:
                if error.status >= 500:
                    log.error("a request failed%s: %s", self._plugin_suffix(error), error.message, exc_info=error)
                    error.logged = True
                task.fail(error)
            except FAULTS as error:
                task.fail(self._log_failure(error, "a request failed", task.failure_message))
        if task.done:
            self.drop(task)

    # --- failures

    def _log_failure(self, cause: BaseException, summary: str, message: str = "the model failed") -> GenerationError:
        """Log a failure with the plugin that caused it; return the client's error."""
        error = GenerationError(message)
        error.__cause__ = cause
        error.logged = True
        log.error("%s%s", summary, self._plugin_suffix(error), exc_info=cause)
        return error

    def _plugin_suffix(self, error: BaseException) -> str:
        name = self._report_failure(error, "token")
        return f" in plugin {name}" if name else ""

    def _abort(self, task: Task, slot: Slot, cause: BaseException, summary: str) -> None:
        """End a task because the backend failed on it; if that lacked memory, the client is told so."""
        if isinstance(cause, Unavailable):
            log.warning("%s: %s", summary, cause.message)
            cause.logged = True
            task.fail(cause)
        else:
            task.fail(self._log_failure(cause, summary))
        self.caches.clear_after_failure(slot)
        self.drop(task)
