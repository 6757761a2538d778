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
from llamafw.engine.adapters import Adapters
from llamafw.engine.disk_reads import DiskReads
from llamafw.engine.fair_shares import PROMPT_COST, RESPONSE_COST
from llamafw.engine.interruptions import Interruptions
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.scheduler import BatchPart, Scheduler, as_batch, without_draft
from llamafw.engine.slot_caches import SlotCaches
from llamafw.engine.slots import Slot, Slots
from llamafw.engine.speculation import Speculation, may_draft
from llamafw.engine.stats import Counters
from llamafw.engine.step_results import evaluate_batch
from llamafw.engine.task import Task
from llamafw.errors import FAULTS, GenerationError, RequestError, Unavailable
from llamafw.interfaces import Backend, EvaluatedTokens
from llamafw.plugins.failures import Place, describe
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw.types import Batch, Floats, Ints, Strengths

log = logging.getLogger(__name__)

_NO_OUTPUTS = np.empty(0, np.int32)
_DISK_SECONDS = 1.0  # time limits are checked as often while nothing but the disk is waited for

ReportFailure = Callable[[BaseException, Place], str | None]
"""Counts a failure; returns the plugin that caused it, or None if no plugin did."""


def ignore_blame(error: BaseException, place: Place) -> None:
    """Return None: no plugin is responsible."""


@dataclass(slots=True, eq=False)
class SlotJob:
    """Work between two steps, on one slot's cache if the slot is free, or on the whole engine."""

    slot: int | None  # None: work that is not about a slot, and only must be done between two steps
    work: Callable[[Any], Any]  # gets the slot
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
    disk_reads : DiskReads
        Reads states for waiting requests.
    n_vocab : int
        Number of tokens that may be drawn.
    timeout : float
        Seconds that a request may wait for a slot.
    speculation : Speculation
        Proposes drafts.
    adapters : Adapters, optional
        Has the scales of tokens.
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
        disk_reads: DiskReads,
        n_vocab: int,
        timeout: float,
        speculation: Speculation,
        *,
        adapters: Adapters | None = None,
        log_caches: bool = False,
        report_failure: ReportFailure = ignore_blame,
    ) -> None:
        self._adapters = adapters or Adapters()
        self.slots, self.scheduler, self.cache, self._disk_reads = slots, scheduler, cache, disk_reads
        self.caches = SlotCaches(backend, slots.all, cache)
        self.jobs: list[SlotJob] = []
        self.counters = Counters()
        self._backend, self._buffers = backend, CandidateBuffers(n_vocab)
        self._speculation = speculation
        self._interruptions = Interruptions(backend, scheduler, self.caches, cache, speculation, self.counters)
        self._timeout, self._log_caches, self._report_failure = timeout, log_caches, report_failure

    @property
    def max_wait(self) -> float | None:
        """How many seconds to wait for something new before the next step; None: without limit."""
        if self.scheduler.running or self.jobs:
            return 0
        if self._disk_reads:
            return _DISK_SECONDS
        return 0 if self.scheduler.waiting else None

    def step(self) -> None:
        """Run pending jobs, admit and expire tasks, then run one forward pass if there are tokens to evaluate."""
        self.cache.relieve()
        self._run_jobs()
        self._admit()
        self._expire()
        self._shift_full_contexts()
        if self.speculative:
            self._speculation.propose(self.scheduler.running)
        self._evaluate(self.scheduler.next_parts())
        if self._log_caches:
            log.info("%s", debug_log.describe_caches(self.slots.all, self.cache))

    def drop(self, task: Task) -> None:
        """Remove a task that has ended or was cancelled."""
        self._speculation.finish(task)
        timings = task.timings()
        if timings is not None and (task.slot is not None or task.paused is not None):
            self.counters.count_request(task.arrived, timings)
        self._disk_reads.forget(task)
        self.scheduler.remove(task)

    @property
    def speculative(self) -> bool:
        """Whether drafts are verified."""
        return self._speculation.active and self.caches.can_reject

    def close(self) -> None:
        """Close the drafters and the backend."""
        self._speculation.close()
        try:
            self._backend.close()
        except FAULTS:
            log.exception("the backend cannot be closed")

    # --- jobs on slots

    def evaluate_prompt(self, slot: Slot, prompt: Ints, adapters: Strengths = ()) -> None:
        """Replace the contents of a free slot by ``prompt``."""
        self.caches.clear(slot)
        slot.adapters = adapters
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
            scales = np.tile(self._adapters.scales_of(slot.adapters), (len(part), 1)) if slot.adapters else None
            batch = Batch(part, positions, np.full_like(part, slot.id), _NO_OUTPUTS, scales=scales)
            self._backend.forward(batch)
            self.caches.extend(slot, part)
            tokens = tokens[len(part) :]

    def _run_jobs(self) -> None:
        for job in self.jobs.copy():
            slot = None if job.slot is None else self.slots.all[job.slot]
            busy = slot is not None and slot.busy
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
                result = job.work(slot)
            except RequestError as error:
                result = error
            except FAULTS as error:
                summary = "the adapters cannot be changed"
                if slot is not None:
                    summary = f"the cache of slot {slot.id} cannot be used"
                result = self._log_failure(error, summary)
            job.send(result)

    # --- before a forward pass

    def _expire(self) -> None:
        now = perf_counter()
        for task in [*self.scheduler.waiting, *self.scheduler.running]:
            if now > task.deadline:
                task.expire()
            elif task.slot is None and task.paused is None and now - task.arrived > self._timeout:
                task.fail(Unavailable(f"no slot became free within {self._timeout:g} s"))
            if task.done:
                self.drop(task)

    def _admit(self) -> None:
        self._interruptions.make()
        for task in self.scheduler.running:
            self._mark_common_starts(task)
        for task, slot in self.scheduler.admit():
            try:
                self._adapters.check(task.adapters)
                if task.paused is not None:
                    self._interruptions.end(task, slot)
                    continue
                n = self.caches.prepare(
                    slot,
                    task.prompt,
                    cache_prompt=task.request.cache_prompt,
                    snapshots=task.output == "logits",
                    n_answer_start=task.n_answer_start,
                    adapters=task.adapters,
                    n_cache_reuse=task.n_cache_reuse,
                    from_disk=self._disk_reads.take(task),
                )
            except FAULTS as error:
                if task.paused is None:
                    task.begin(slot, 0)
                else:
                    task.resume(slot)
                self._abort(task, slot, error, f"the cache of slot {slot.id} cannot be prepared")
            else:
                task.begin(slot, n)
                self.scheduler.charge(task, PROMPT_COST * task.n_left)
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

        If it fails, run each part alone and without its draft.
        """
        if not parts:
            return
        batch, started = as_batch(parts, self._adapters.scales_of), perf_counter()
        try:
            for part in parts:
                if part.n_draft:
                    self.caches.hold(part.slot)
            with_hidden = self.speculative and self._speculation.wants_hidden
            results = evaluate_batch(self._backend, batch, parts, len(self._buffers.ids), with_hidden=with_hidden)
        except FAULTS as error:
            if len(parts) == 1 and not parts[0].n_draft:
                task, slot = parts[0].task, parts[0].slot
                summary = f"the backend failed on {len(batch.tokens)} tokens of slot {slot.id}"
                return self._abort(task, slot, error, summary)
            message = "the backend failed on a batch of %d sequences (%s); trying each alone"
            log.warning(message, len(parts), describe(error))
            for part in parts:
                self._retry(part)
            return

        seconds = perf_counter() - started
        self.counters.count_pass(len(parts))
        self.scheduler.record(parts, seconds)
        if len(batch.outputs) == len(batch.tokens) == sum(1 + part.n_draft for part in parts):
            self._speculation.record_step(len(parts), len(batch.tokens), seconds)
        lengths = [self._finish_part(*of_part) for of_part in results.by_part(parts)]
        if results.hidden is not None:
            self._show_hidden(parts, lengths, results.hidden)

    def _finish_part(self, part: BatchPart, rows: Floats, ids: Ints | None) -> int:
        """Record the tokens of a part and hand out its rows; return how many tokens its slot has more than before."""
        n_before = part.slot.n
        self.caches.extend(part.slot, part.tokens)
        if not part.repeats:
            part.task.advance(len(part.tokens))
            self._hand_out(part, rows, ids)
        return part.slot.n - n_before

    def _show_hidden(self, parts: Sequence[BatchPart], lengths: Sequence[int], hidden: Floats) -> None:
        """Show the drafters the tokens that stay in their slots; ``hidden`` are the rows of all tokens of the batch."""
        states, first = [], 0
        for part, n in zip(parts, lengths, strict=True):
            if n > 0 and may_draft(part.task):
                slot = part.slot
                states.append(EvaluatedTokens(slot.id, slot.tokens[: slot.n], hidden[first : first + n]))
            first += len(part.tokens)
        if states:
            self._speculation.observe(states)

    def _retry(self, part: BatchPart) -> None:
        try:
            n_lost = self.caches.undo(part.slot)
            self._evaluate_tokens(part.slot, part.slot.lost[:n_lost])
        except FAULTS as error:
            return self._abort(part.task, part.slot, error, f"slot {part.slot.id} cannot be reset")
        self._evaluate([without_draft(part)])

    def _hand_out(self, part: BatchPart, rows: Floats, ids: Ints | None) -> None:
        """Pass rows to their task, and remove the rest of its draft; a failure ends this task only."""
        task, n_used, n_before = part.task, 1, part.task.n_predicted
        if len(rows) or not task.n_left:
            try:
                n_used = task.take(rows, self._buffers, ids)
            except RequestError as error:
                if error.status >= 500:
                    log.error("a request failed%s: %s", self._plugin_suffix(error), error.message, exc_info=error)
                    error.logged = True
                task.fail(error)
            except FAULTS as error:
                task.fail(self._log_failure(error, "a request failed", task.failure_message))
        self.scheduler.charge(task, RESPONSE_COST * (task.n_predicted - n_before))
        if part.n_draft:
            self._settle_draft(part, n_used - 1)
        if task.done:
            self.drop(task)

    def _settle_draft(self, part: BatchPart, n_accepted: int) -> None:
        """Count a draft of which ``n_accepted`` tokens were drawn, and remove the others from the cache."""
        slot = part.slot
        self.counters.count_draft(part.n_draft, n_accepted)
        self._speculation.record_draft(part.task, part.n_draft, n_accepted)
        if n_accepted == part.n_draft:
            return
        try:
            self.caches.reject(slot, slot.n - part.n_draft + n_accepted)
        except FAULTS as error:
            part.task.fail(self._log_failure(error, f"the draft in slot {slot.id} cannot be removed"))
            self.caches.clear_after_failure(slot)

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
