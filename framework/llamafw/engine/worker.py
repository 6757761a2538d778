"""What the engine thread does with the backend: one step after the other, and whose fault it is if one fails.

It owns the scheduler, the slots and the backend, and knows nothing of event loops: sequences and jobs have somewhere to
send their results.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from llamafw.engine import context_shift, debug_log
from llamafw.engine.embed_sequence import EmbedSequence
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.scheduler import Part, Scheduler, Task, as_batch
from llamafw.engine.sequence import Sequence
from llamafw.engine.slots import Slot, Slots
from llamafw.engine.stats import Counts
from llamafw.errors import FAULTS, GenerationError, RequestError, Unavailable
from llamafw.interfaces import Backend
from llamafw.plugins.blame import Place
from llamafw.sampling.kernels import CandidateBuffers
from llamafw.types import Batch, Bytes, Floats, Ints

log = logging.getLogger(__name__)

_NONE = np.empty(0, np.int32)  # no outputs
_WORTH = 64  # tokens: to evaluate fewer is about as quick as to copy a state


Blamed = Callable[[BaseException, Place], str | None]
"""Counts a failure and returns the plugin whose it was, if it was one's."""


def nobody(error: BaseException, place: Place) -> None:
    """Blame nobody."""


@dataclass(slots=True, eq=False)
class Job:
    """Work on one slot's cache while nobody else uses it."""

    slot: int
    work: Callable[[Slot], Any]
    send: Callable[[Any], None]  # takes the result, or the RequestError it ended with
    arrived: float
    cancelled: bool = False  # nobody waits for it any more


class Worker:
    """The engine thread's part of the engine.

    Parameters
    ----------
    n_vocab : int
        Tokens that may be drawn.
    timeout : float
        Seconds that a request may wait for a slot.
    log_cache : bool
        Log what the slots hold after every step.
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
        log_cache: bool = False,
        blamed: Blamed = nobody,
    ) -> None:
        self.backend, self.slots, self.scheduler, self.cache = backend, slots, scheduler, cache
        self.jobs: list[Job] = []
        self.counts = Counts()
        self._vocabulary = CandidateBuffers(n_vocab)
        self._timeout, self._log_cache, self._blamed = timeout, log_cache, blamed

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self.scheduler.idle and not self.jobs

    def step(self) -> None:
        """Do what is to be done once, and run one forward pass if there is anything to evaluate."""
        self._run_jobs()
        self._admit()
        self._expire()
        self._make_room()
        self._evaluate(self.scheduler.next_parts())
        if self._log_cache:
            log.info("%s", debug_log.cache(self.slots.all, self.cache))

    def evaluate(self, slot: Slot, prompt: Ints) -> None:
        """Let a slot that nobody uses hold ``prompt`` and nothing else."""
        self.backend.truncate(slot.id, 0)
        slot.shorten(0)
        n_batch = self.scheduler.n_batch
        for first in range(0, len(prompt), n_batch):
            tokens = prompt[first : first + n_batch]
            positions = np.arange(first, first + len(tokens), dtype=np.int32)
            try:
                self.backend.forward(Batch(tokens, positions, np.full_like(tokens, slot.id), _NONE))
            except FAULTS:
                self._forget(slot)
                raise
            slot.extend(tokens)

    def drop(self, task: Task) -> None:
        """Forget a task that has ended or whose client has gone."""
        if isinstance(task, Sequence) and task.slot is not None:
            self.counts.ended(task.arrived, task.timings())
        self.scheduler.remove(task)

    # --- before a pass

    def _expire(self) -> None:
        now = perf_counter()
        for task in [*self.scheduler.waiting, *self.scheduler.running]:
            if now > task.deadline and isinstance(task, Sequence):
                task.expire()
            elif task.slot is None and now - task.arrived > self._timeout:
                task.fail(Unavailable(f"no slot has become free within {self._timeout:g} s"))
            if task.done:
                self.drop(task)

    def _run_jobs(self) -> None:
        for job in self.jobs.copy():
            busy, late = self.slots.all[job.slot].busy, perf_counter() - job.arrived > self._timeout
            if busy and not late and not job.cancelled:
                continue
            self.jobs.remove(job)
            if job.cancelled:
                continue
            if busy:
                job.send(Unavailable(f"slot {job.slot} has not become free within {self._timeout:g} s"))
                continue
            try:
                result = job.work(self.slots.all[job.slot])
            except RequestError as error:
                result = error
            except FAULTS as exc:
                result = self._failure(exc, f"the cache of slot {job.slot} cannot be used")
            job.send(result)

    def _admit(self) -> None:
        for task, slot, common in self.scheduler.admit():
            try:
                n = self._prepare_cache(task, slot, common)
            except FAULTS as exc:
                task.begin(slot, 0)
                self._break_off(task, slot, exc, f"the cache of slot {slot.id} cannot be prepared")
            else:
                task.begin(slot, n)

    def _prepare_cache(self, task: Task, slot: Slot, common: int) -> int:
        """Let a slot's cache hold a prefix of the prompt and nothing else; return how many tokens."""
        if task.request.cache_prompt:
            try:
                self._keep(slot, common)
                common = self._fetch(slot, task.prompt, common)
            except FAULTS:  # a request can do without
                log.exception("the prompt cache failed on slot %d", slot.id)
                common = min(common, slot.n)
        n = min(common, len(task.prompt) - 1)  # one token at least is evaluated, for its logits
        if n < slot.n:
            self.backend.truncate(slot.id, n)
            slot.shorten(n)
        return n

    def _keep(self, slot: Slot, common: int) -> None:
        """Keep what a slot holds, if it would be lost and is worth it."""
        tokens = slot.reusable
        if len(tokens) - common < _WORTH or self.cache.limit == 0 or self.cache.holds(tokens):
            return
        state = self.backend.save(slot.id, len(tokens))
        if self.cache.takes(state.nbytes):
            self.cache.add(tokens.copy(), state)

    def _fetch(self, slot: Slot, prompt: Ints, common: int) -> int:
        """Take the longest prefix of the prompt that another slot holds or that was kept; return its length."""
        if self.cache.limit == 0:
            return common
        entry, n = self.cache.best(prompt)
        other = max(self.slots.all, key=lambda other: other.common_prefix(prompt))
        n_other = other.common_prefix(prompt)
        if max(n, n_other) - common < _WORTH:
            return common
        if entry is None or n_other >= n:
            tokens, state = prompt[:n_other], self.backend.save(other.id, n_other)
        else:
            tokens, state = entry.tokens, entry.state
        self.put(slot, tokens, state)
        return max(n, n_other)

    def put(self, slot: Slot, tokens: Ints, state: Bytes) -> None:
        """Let a slot hold ``tokens``, whose state is given. If the backend refuses it, the slot is empty."""
        self.backend.truncate(slot.id, 0)
        slot.shorten(0)
        self.backend.restore(slot.id, len(tokens), state)
        slot.extend(tokens)

    def _make_room(self) -> None:
        """Shift the contexts that are full."""
        for task in list(self.scheduler.running):
            slot = task.slot
            if not isinstance(task, Sequence) or slot is None or task.n_left or slot.n < len(slot.tokens):
                continue
            n = context_shift.discarded(slot.n, task.n_keep, task.request.n_discard)
            if not n:
                task.finish("limit", truncated=True)
                self.drop(task)
                continue
            try:
                self.backend.shift(slot.id, task.n_keep, n)
            except FAULTS as exc:
                self._break_off(task, slot, exc, f"the backend cannot shift the context of slot {slot.id}")
            else:
                slot.shift(task.n_keep, n)
                task.truncated = True

    # --- the pass

    def _evaluate(self, parts: Seq[Part]) -> None:
        """Run one forward pass, hand out its rows. If it fails, find out whose fault it is, and go on with the rest."""
        if not parts:
            return
        batch = as_batch(parts)
        run = self.backend.hidden if parts[0].task.embeds else self.backend.forward
        try:
            rows = run(batch)
            if len(rows) != len(batch.outputs):
                raise ValueError(f"{len(rows)} rows for {len(batch.outputs)} outputs")
        except FAULTS as exc:
            if len(parts) == 1:
                task, slot = parts[0].task, parts[0].slot
                what = f"the backend failed on {len(batch.tokens)} tokens of slot {slot.id}"
                return self._break_off(task, slot, exc, what)
            log.warning("the backend failed on a batch of %d sequences; trying each alone", len(parts), exc_info=True)
            for part in parts:
                self._retry(part)
            return
        self.counts.passed(len(parts))
        first = 0
        for part in parts:
            part.slot.extend(part.tokens)
            part.task.advance(len(part.tokens))
            self._hand_out(part.task, rows[first : first + len(part.outputs)])
            first += len(part.outputs)

    def _hand_out(self, task: Task, rows: Floats) -> None:
        if isinstance(task, EmbedSequence):
            self._embed(task, rows)
        elif len(rows) or not task.n_left:
            self._answer(task, rows[:, : len(self._vocabulary.ids)])
        if task.done:
            self.drop(task)

    def _embed(self, task: EmbedSequence, rows: Floats) -> None:
        try:
            task.take(rows)
        except FAULTS as exc:
            task.fail(self._failure(exc, "a text failed", "the states of the text are none"))

    def _retry(self, part: Part) -> None:
        try:
            self.backend.truncate(part.slot.id, part.slot.n)  # the failed pass may have gone some of the way
        except FAULTS as exc:
            what = f"the backend cannot shorten the cache of slot {part.slot.id}"
            return self._break_off(part.task, part.slot, exc, what)
        self._evaluate([part])

    def _answer(self, sequence: Sequence, rows: Floats) -> None:
        try:
            rows = sequence.tell_prompt(rows)
            if len(rows):
                sequence.pick(self._vocabulary, rows[0])
            elif not sequence.n_left:  # only the prompt was to be evaluated
                sequence.finish("limit")
        except RequestError as exc:
            if exc.status >= 500:
                log.error("a request failed%s: %s", self._whose(exc), exc.message, exc_info=exc)
            sequence.fail(exc)
        except FAULTS as exc:
            sequence.fail(self._failure(exc, "a request failed", "the answer could not be continued"))

    def _failure(self, cause: BaseException, what: str, message: str = "the model failed") -> GenerationError:
        """Log a failure, and whose it was; return what the client is told."""
        error = GenerationError(message)
        error.__cause__ = cause
        log.error("%s%s", what, self._whose(error), exc_info=cause)
        return error

    def _whose(self, error: BaseException) -> str:
        name = self._blamed(error, "token")
        return f" in plugin {name}" if name else ""

    def _break_off(self, task: Task, slot: Slot, cause: BaseException, what: str) -> None:
        """End a task whose backend failed."""
        task.fail(self._failure(cause, what))
        self._forget(slot)
        self.drop(task)

    def _forget(self, slot: Slot) -> None:
        """Empty the slot that the backend failed on: what its cache holds now is anyone's guess."""
        try:
            self.backend.truncate(slot.id, 0)
        except FAULTS:
            log.exception("the backend cannot empty slot %d", slot.id)
        slot.shorten(0)
