"""Limits the prompt tokens of a step, so that the responses in it do not wait much longer for their next tokens.

A step with parts of prompts may take ``max_slowdown`` times as long as one that only continues the responses. Both are
measured, so a slow machine evaluates a long prompt in many small parts, and a fast one in a few large ones. A step may
always take ``prompt_gap`` seconds: a GPU, whose steps take a few milliseconds, would otherwise
read its weights again and again for a few tokens of a prompt. (Compare
Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve", OSDI 2024, which has fixed
budgets.)

The number of tokens grows until the limit is reached. The next step is assumed to take no longer per token than the
last one; if its positions are higher, proportionally longer. Steps of less than ``prompt_gap`` grow faster: they are
assumed to take as long per token, whatever the positions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median_low

from llamafw.engine.task import Task

_MARGIN = 0.95  # of the allowed duration is planned, because the next step may differ a little from the last
_MAX_STEPS = 16  # with prompts; then one without is measured again, because contexts grow
_N_MEASUREMENTS = 5


@dataclass(frozen=True, slots=True)
class _Step:
    """A step with responses and parts of prompts."""

    n_responses: int
    n_prompt: int  # tokens of prompts
    position: float  # of these tokens, on average
    seconds: float
    own_seconds: float  # of a step without prompts, for the same responses


class PromptBudget:
    """Chooses how many tokens of prompts a step evaluates beside responses.

    Parameters
    ----------
    max_slowdown : float
        How many times as long as without prompts a step may take; more than 1.
    prompt_gap : float, optional
        Seconds that a step may take in any case.
    """

    def __init__(self, max_slowdown: float, prompt_gap: float = 0.0) -> None:
        self._max_slowdown, self._prompt_gap = max_slowdown, prompt_gap
        self._responses: frozenset[Task] = frozenset()  # in the last step
        self._own: deque[float] = deque(maxlen=_N_MEASUREMENTS)  # durations of their steps without prompts
        self._n_steps = 0  # with prompts, since the last one without
        self._last: _Step | None = None  # the last step that was as long as allowed
        self._limit = 0

    def limit(self, responses: Collection[Task], depth: int) -> int:
        """Return how many tokens of prompts the next step may evaluate.

        It is 0 if a step without prompts has to be measured first.

        Parameters
        ----------
        responses : collection of Task
            The tasks that the step continues, at least one.
        depth : int
            The highest position of a prompt so far.
        """
        is_new = self._change(responses)
        self._limit = 0
        if self._own and self._n_steps < _MAX_STEPS:
            self._limit = max(int(self._room(len(responses), depth, may_grow=not is_new)), 1)
        return self._limit

    def record(self, responses: Collection[Task], n_prompt: int, position: float, seconds: float) -> None:
        """Record the duration of a step.

        Parameters
        ----------
        responses : collection of Task
            The tasks that it continued.
        n_prompt : int
            Its number of prompt tokens.
        position : float
            Their average position, in the prompt where it is lowest.
        seconds : float
            The duration.
        """
        if not responses:
            return
        self._change(responses)
        if not n_prompt:
            self._own.append(seconds)
            self._n_steps = 0
            return
        self._n_steps += 1
        if self._own and (n_prompt >= self._limit or seconds > self._allowed):
            self._last = _Step(len(responses), n_prompt, position, seconds, median_low(self._own))

    @property
    def _allowed(self) -> float:
        return _MARGIN * max(self._max_slowdown * median_low(self._own), self._prompt_gap)

    def _change(self, responses: Collection[Task]) -> bool:
        """Forget what was measured for other responses; return whether they have changed."""
        if self._responses == (current := frozenset(responses)):
            return False
        self._responses = current
        self._own.clear()
        self._n_steps = 0
        return True

    def _room(self, n_responses: int, depth: int, *, may_grow: bool) -> float:
        """Return how many prompt tokens fit into the allowed duration."""
        last, own, allowed = self._last, median_low(self._own), self._allowed
        if last is None:
            return 1
        n_before, extra = last.n_responses + last.n_prompt, max(last.seconds - last.own_seconds, 0.0)
        n_at_most = n_before * allowed / last.seconds
        extra *= max((depth + n_at_most / 2) / last.position, 1.0)
        n = n_before * allowed / (last.own_seconds + extra) - n_responses
        if extra > 0:
            n = min(n, last.n_prompt * (allowed - own) / extra)
        n = max(n, last.n_prompt * _MARGIN * self._prompt_gap / last.seconds)
        return n if may_grow else min(n, last.n_prompt)
