"""Asks drafters for the next tokens of responses, and records how many of them were right.

Independent of how drafts are verified; the scheduler, the worker and the sequences do that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import cast

import numpy as np

from llamafw.engine.draft_tuner import N_WATCHED, DraftTuner, Source
from llamafw.engine.slots import NO_TOKENS
from llamafw.engine.task import Task
from llamafw.engine.unloadable_drafter import UnloadableDrafter
from llamafw.errors import FAULTS, RequestError
from llamafw.interfaces import Drafter, DraftRequest, EvaluatedTokens, HiddenDrafter
from llamafw.interfaces.drafter import most_likely
from llamafw.plugins.failures import Place
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw.types import Floats, GenerateRequest, Ints

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """Settings of speculative decoding."""

    adaptive: bool = True  # False: drafts are always as long as possible
    n_min: int = 0  # shorter drafts are not used
    p_min: float = 0.0  # for drafters that know probabilities


@dataclass(frozen=True, slots=True)
class _Watched:
    """A draft that is not evaluated, but compared with what is drawn."""

    drafter: str
    tokens: Ints
    n_before: int  # tokens drawn before it


class Speculation:
    """The drafters of one model.

    Parameters
    ----------
    drafters : mapping of str to Drafter
        By name; each is asked for the responses for which those before it have no draft.
    options : SpeculationOptions
        The settings.
    n_vocab : int
        Number of tokens.
    report_failure : callable
        ``report_failure(error, "token")`` counts a failure, and returns the plugin that caused it, if one did.
    """

    def __init__(
        self,
        drafters: Mapping[str, Drafter],
        options: SpeculationOptions,
        n_vocab: int,
        report_failure: Callable[[BaseException, Place], str | None],
    ) -> None:
        self._drafters, self._options, self._n_vocab = dict(drafters), options, n_vocab
        self._report_failure = report_failure
        self._tuner = DraftTuner() if options.adaptive else None
        self._drafted_by: dict[int, str] = {}  # by slot: the drafter of the draft in the next step
        self._watched: dict[int, _Watched] = {}  # by slot
        self._n_tokens = 0  # of the next step, without prompts
        self._buffers = CandidateBuffers(n_vocab if drafters else 0)
        self._paused: dict[Task, Mapping[str, Source]] = {}  # how good the drafts of tasks without a slot were

    @property
    def active(self) -> bool:
        """Whether there are drafters."""
        return bool(self._drafters)

    def propose(self, tasks: Iterable[Task]) -> None:
        """Set the draft of each task that can use one."""
        if not self._drafters:
            return
        generating = [task for task in tasks if not task.n_left]
        wanting = [task for task in generating if task.n_draftable > 0]
        self._drafted_by.clear()
        for task in generating:
            task.draft = NO_TOKENS
        self._compare(wanting)
        if self._tuner is not None and not self._tuner.may_try:
            return
        self._n_tokens = len(generating)
        for name in list(self._drafters):
            self._ask(name, [task for task in wanting if not len(task.draft)], len(generating))

    def _ask(self, name: str, tasks: Sequence[Task], n_responses: int) -> None:
        """Ask one drafter for drafts."""
        started = perf_counter()
        drafter, requests = self._drafters[name], []
        for task in tasks:
            n, is_watched = self._length(name, task, n_responses)
            if n > 0:
                requests.append((task, self._request(task, min(n, task.n_draftable, drafter.n_max)), is_watched))
        if not requests:
            return

        try:
            drafts = drafter.draft([request for _, request, _ in requests])
            pairs = zip(drafts, requests, strict=True)
            checked = [(task, self._check(draft, request), watch) for draft, (task, request, watch) in pairs]
        except FAULTS as error:
            self._remove(name, error)
            return
        if self._tuner is not None:
            self._tuner.charge_guess(name, sum(len(draft) for _, draft, _ in checked), perf_counter() - started)
        for task, draft, is_watched in checked:
            self._use(name, task, draft, n_responses, is_watched=is_watched)

    def _use(self, name: str, task: Task, draft: Ints, n_responses: int, *, is_watched: bool) -> None:
        """Let the next step evaluate a draft, or only compare it with what is drawn."""
        slot = task.slot
        assert slot is not None  # it generates
        if self._tuner is not None:
            self._tuner.record_guess(name, slot.id, len(draft))
        if is_watched and len(draft):
            self._watched[slot.id] = _Watched(name, draft, task.n_predicted)
        elif len(draft) >= max(self._n_min(task), 1):
            task.draft, self._drafted_by[slot.id] = draft, name
            if self._tuner is not None:
                self._tuner.charge(n_responses, self._n_tokens, len(draft))
            self._n_tokens += len(draft)

    def _length(self, name: str, task: Task, n_responses: int) -> tuple[int, bool]:
        """Return how many tokens to ask for, and whether they are only compared."""
        if self._tuner is None:
            return self._n_vocab, False  # as many as the drafter can guess
        assert task.slot is not None  # it generates
        if self._tuner.skips(name, task.slot.id):
            return 0, True
        n = self._tuner.choose(name, task.slot.id, n_responses, self._n_tokens, self._n_min(task))
        if n:
            return n, False
        return (0 if task.slot.id in self._watched else N_WATCHED), True

    def _request(self, task: Task, n: int) -> DraftRequest:
        slot = task.slot
        assert slot is not None  # it generates
        slot.tokens[slot.n] = task.last  # where it will be cached
        p_min = _field(task, "draft_p_min", self._options.p_min)
        return DraftRequest(slot.id, slot.tokens[: slot.n + 1], n, p_min, self._drawer(task))

    def _drawer(self, task: Task) -> Callable[[Floats], int]:
        """Return a function that draws the tokens that the task probably will."""
        chain = task.chain
        assert chain is not None  # it generates
        rehearse = cache(chain.rehearse)  # once, and only for drafters that draw

        def draw(logits: Floats) -> int:
            row = np.full(self._n_vocab, -np.inf, np.float32)
            row[: len(logits)] = logits
            try:
                return rehearse().draw(self._buffers, row)
            except RequestError:  # the response will end with this error, or the draft model's logits are not numbers
                return most_likely(logits)

        return draw

    def _n_min(self, task: Task) -> int:
        return int(_field(task, "draft_n_min", self._options.n_min))

    def _check(self, draft: Ints, request: DraftRequest) -> Ints:
        """Return a valid draft; ValueError if it is not one."""
        tokens = np.asarray(draft, np.int32)
        if tokens.ndim != 1 or len(tokens) > request.n_max:
            raise ValueError(f"a draft has the shape {tokens.shape}, but n_max is {request.n_max}")
        if not ((tokens >= 0) & (tokens < self._n_vocab)).all():
            raise ValueError(f"a draft has tokens outside of the vocabulary of {self._n_vocab}: {tokens.tolist()}")
        return tokens

    def _compare(self, tasks: Iterable[Task]) -> None:
        """Compare the drafts that were not evaluated with what was drawn since."""
        for task in tasks if self._watched else ():
            assert task.slot is not None  # it generates
            watched = self._watched.get(task.slot.id)
            if watched is None:
                continue
            n = min(task.n_predicted - watched.n_before, len(watched.tokens))
            drawn = task.drawn(watched.n_before)[:n]
            n_right = int((drawn == watched.tokens[:n]).cumprod().sum())
            if n_right < n or n == len(watched.tokens):
                del self._watched[task.slot.id]
                if self._tuner is not None:
                    n_all = len(watched.tokens)
                    self._tuner.record_draft(watched.drafter, task.slot.id, n_all, n_right, evaluated=False)

    # --- hidden states

    @property
    def wants_hidden(self) -> bool:
        """Whether a drafter sees hidden states, and drafts are allowed now."""
        is_allowed = self._tuner is None or self._tuner.may_try
        return is_allowed and any(hasattr(drafter, "observe") for drafter in self._drafters.values())

    def observe(self, states: Sequence[EvaluatedTokens]) -> None:
        """Show the tokens of a step to the drafters that see hidden states."""
        for name, drafter in list(self._drafters.items()):
            if not hasattr(drafter, "observe"):
                continue
            started = perf_counter()
            try:
                cast("HiddenDrafter", drafter).observe(states)
            except FAULTS as error:
                self._remove(name, error)
                continue
            if self._tuner is not None:
                self._tuner.charge_guess(name, 0, perf_counter() - started)

    # --- what has happened

    def record_step(self, n_responses: int, n_tokens: int, seconds: float) -> None:
        """Record the duration of a step that continued responses and did nothing else."""
        if self._tuner is not None:
            self._tuner.record_step(n_responses, n_tokens, seconds)

    def record_draft(self, task: Task, n: int, n_accepted: int) -> None:
        """Record that ``n_accepted`` of the ``n`` tokens of a task's draft were drawn."""
        if self._tuner is not None and task.slot is not None and task.slot.id in self._drafted_by:
            self._tuner.record_draft(self._drafted_by[task.slot.id], task.slot.id, n, n_accepted)

    def pause(self, task: Task) -> None:
        """Let drafters forget a task that gives up its slot; how good its drafts were is kept."""
        if not self._drafters or task.slot is None:
            return
        slot = task.slot.id
        self._watched.pop(slot, None)
        if self._tuner is not None:
            self._paused[task] = self._tuner.take(slot)
        self._finish(slot, NO_TOKENS)

    def resume(self, task: Task) -> None:
        """Record that a task has a slot again."""
        if self._tuner is not None and task.slot is not None and task in self._paused:
            self._tuner.put(task.slot.id, self._paused.pop(task))

    def finish(self, task: Task) -> None:
        """Forget a task that has ended."""
        self._paused.pop(task, None)
        if not self._drafters or task.slot is None or task.output != "logits":
            return
        slot = task.slot.id
        self._watched.pop(slot, None)
        if self._tuner is not None:
            self._tuner.finish(slot)
        self._finish(slot, task.drawn())

    def _finish(self, slot: int, drawn: Ints) -> None:
        for name, drafter in list(self._drafters.items()):
            try:
                drafter.finish(slot, drawn)
            except FAULTS as error:
                self._remove(name, error)

    # --- sleep

    def unload(self) -> None:
        """Take the models that drafters have loaded out of the memory."""
        for name, drafter in self._drafters.items():
            if isinstance(drafter, UnloadableDrafter):
                try:
                    drafter.unload()
                except FAULTS:
                    log.exception("the drafter %s cannot be closed", name)

    def load(self) -> None:
        """Load these models again; errors of loading are raised."""
        for drafter in self._drafters.values():
            if isinstance(drafter, UnloadableDrafter):
                drafter.load()

    # --- the end

    def close(self) -> None:
        """Close all drafters."""
        for name in list(self._drafters):
            self._close(name)

    def _remove(self, name: str, error: BaseException) -> None:
        """Continue without a drafter that has failed."""
        plugin = self._report_failure(error, "token")
        suffix = f" in plugin {plugin}" if plugin else ""
        log.error("the drafter %s failed%s and is not used any more", name, suffix, exc_info=error)
        self._close(name)

    def _close(self, name: str) -> None:
        try:
            self._drafters.pop(name).close()
        except FAULTS:
            log.exception("the drafter %s cannot be closed", name)


def may_draft(task: Task) -> bool:
    """Return whether a task's request allows drafts."""
    return isinstance(task.request, GenerateRequest) and task.request.draft_n_max != 0


def _field(task: Task, name: str, default: float) -> float:
    """Return a field of a request about drafts, or the server's setting."""
    request = task.request
    value = getattr(request, name) if isinstance(request, GenerateRequest) else None
    return default if value is None else value
