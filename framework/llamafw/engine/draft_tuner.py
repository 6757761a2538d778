"""Decides how many tokens are drafted for each response, so that drafts save time.

A draft makes a step longer, and saves a step for each of its tokens that is drawn. Both are measured. The number of
tokens is the one that is expected to save the most time; if none saves time, nothing is drafted. Drafts that would not
pay are still compared with what is drawn, without evaluating them, so that drafting resumes when they would.

If the estimates are wrong, the loss is limited: what drafts cost and what they save goes to an account, to which 2 % of
the time of all steps is added. While it is overdrawn, nothing is drafted.

A drafter that has guessed nothing for a response is asked less often, because asking takes time, too.

Before a draft model can guess, it must read the text so far. A drafter may do so in advance of what it will save, up to
the time of a number of steps; beyond that, the account is charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llamafw.engine.step_times import Median, StepTimes

_MAX_LOSS = 0.02  # share of the time that drafts may lose
_MAX_ADVANCE = 100  # steps; how long a drafter may read before it has saved as much
_FIRST_CREDIT = 4  # steps that the drafts of a response may lose before any has saved time
_MAX_CREDIT = 16  # steps; what drafts have saved beyond this is not available for failures
_SMOOTHING = 0.04  # weight of a token in the acceptance rate of a response
_RATE_SMOOTHING = 0.2  # weight of a response in the rate that the next ones begin with
_GOOD_RATE = 0.5  # with a higher rate, drafts may pay on some machines
_FIRST_RATE = 0.5  # the acceptance rate of a drafter before its first draft
_LENGTHS = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 24, 31, 40, 48, 63])  # numbers of tokens to choose from
_N_STEPS = 16  # after so many steps, the number of tokens is chosen again
_MAX_SKIPS = 3  # steps in which a drafter that guesses nothing is not asked, after each question
N_WATCHED = 4  # tokens of a draft that is only compared


@dataclass(slots=True)
class Source:
    """What is known about the drafts of one drafter for one response."""

    rate: float  # probability that a token is accepted if those before it are
    n_steps: int = 0  # until the length is chosen again
    length: int = 0
    saving: float = 0.0  # seconds saved per accepted token
    n_drafts: int = 0
    n_empty: int = 0  # times in a row that nothing was guessed
    n_skips: int = 0  # steps without a question that are left


class DraftTuner:
    """Chooses the number of tokens of drafts.

    Parameters
    ----------
    times : StepTimes, optional
        Durations of steps.
    """

    def __init__(self, times: StepTimes | None = None) -> None:
        self._times = times or StepTimes()
        self._balance: float | None = None  # seconds; None: nothing is known about steps yet
        self._step = 0.0  # seconds of a step without drafts
        self._charged = 0.0  # seconds, for the drafts of the next step
        self._sources: dict[tuple[str, int], Source] = {}  # by drafter and slot
        self._rates: dict[str, float] = {}  # by drafter: the rate that responses begin with
        self._seconds_per_token: dict[str, Median] = {}  # by drafter: the time to guess a token
        self._advances: dict[str, float] = {}  # by drafter: seconds of reading that it has not saved yet

    def record_step(self, n_responses: int, n_tokens: int, seconds: float) -> None:
        """Record the duration of a step with ``n_tokens`` for ``n_responses``, and nothing else."""
        self._times.record(n_responses, n_tokens, seconds)
        plain = self._times.plain(n_responses) if self._balance is None or n_tokens == n_responses else None
        if plain is not None:
            self._step = plain
            self._balance = _FIRST_CREDIT * plain if self._balance is None else self._balance
        self._add(_MAX_LOSS * seconds)
        before = self._times.plain(n_responses) if self._charged else None
        if before is not None:  # the drafts cost less than estimated
            self._add(max(self._charged - max(seconds - before, 0.0), 0.0))
        self._charged = 0.0

    @property
    def may_try(self) -> bool:
        """Whether drafts are allowed now."""
        return self._balance is None or self._balance >= 0

    def choose(self, drafter: str, slot: int, n_responses: int, n_tokens: int, n_min: int) -> int:
        """Return how many tokens to draft for a slot; 0: none.

        Parameters
        ----------
        drafter : str
            The drafter's name.
        slot : int
            The slot.
        n_responses, n_tokens : int
            How many responses the next step continues, and how many tokens it has so far.
        n_min : int
            Fewer tokens are not allowed.
        """
        source = self._source(drafter, slot)
        source.n_steps -= 1
        if source.n_steps < 0:
            source.n_steps = _N_STEPS
            source.length = self._best_length(source, drafter, n_responses, n_tokens, n_min)
        return source.length

    def skips(self, drafter: str, slot: int) -> bool:
        """Return whether the drafter is not asked in this step, because it has guessed nothing before."""
        source = self._source(drafter, slot)
        source.n_skips -= 1
        return source.n_skips >= 0

    def record_guess(self, drafter: str, slot: int, n: int) -> None:
        """Record that the drafter has guessed ``n`` tokens for a slot."""
        source = self._source(drafter, slot)
        source.n_empty = 0 if n else source.n_empty + 1
        source.n_skips = min(source.n_empty, _MAX_SKIPS)

    def _best_length(self, source: Source, drafter: str, n_responses: int, n_tokens: int, n_min: int) -> int:
        plain = self._times.plain(n_responses)
        if plain is None:
            source.n_steps = 0
            return 0
        # at most twice as many tokens as ever, because the estimate may be far off beyond that
        limit = 2 * max(self._times.most_tokens(n_responses), n_tokens) + 1 - n_tokens
        lengths = _LENGTHS[(limit >= _LENGTHS) & (n_min <= _LENGTHS)]
        if not len(lengths):
            return 0
        source.saving = plain / n_responses
        seconds = self._times.wide(n_responses, np.append(n_tokens + lengths, n_tokens))
        rate = min(source.rate, 0.999)
        accepted = rate * (1 - rate**lengths) / (1 - rate)  # a geometric series
        known = self._seconds_per_token.get(drafter)
        guessing = 0.0 if known is None else known.seconds * lengths
        gains = accepted * source.saving - (seconds[:-1] - seconds[-1]) - guessing
        best = int(gains.argmax())
        if gains[best] > 0:
            return int(lengths[best])
        # with good guesses, the time of such a step is measured again now and then: it may have been an exception
        is_due = source.rate > _GOOD_RATE and (self._balance or 0.0) >= _FIRST_CREDIT * self._step
        return int(lengths[0]) if is_due else 0

    def charge(self, n_responses: int, n_tokens: int, n: int) -> None:
        """Charge the account with the evaluation of ``n`` tokens, in a step with ``n_tokens`` others."""
        if self._times.plain(n_responses) is not None:
            after, before = self._times.wide(n_responses, np.array([n_tokens + n, n_tokens]))
            self._charged += float(after - before)
            self._add(float(before - after))

    def charge_guess(self, drafter: str, n: int, seconds: float) -> None:
        """Charge the account with the time that a drafter took to guess ``n`` tokens.

        A much longer time than usual is that of reading the text.
        """
        known = self._seconds_per_token.get(drafter)
        usual = n * (self._step if known is None else known.seconds)
        reading = seconds - usual if seconds > 2 * usual else 0.0
        advance = self._advances.get(drafter, 0.0) + reading
        if advance <= _MAX_ADVANCE * self._step:
            self._advances[drafter] = advance
            seconds -= reading
        self._add(-seconds)
        if n:
            self._seconds_per_token.setdefault(drafter, Median()).add(seconds / n, self._times.now())

    def record_draft(self, drafter: str, slot: int, n: int, n_accepted: int, *, evaluated: bool = True) -> None:
        """Record how many tokens of a draft were drawn; False for ``evaluated``: it was only compared."""
        source = self._source(drafter, slot)
        if evaluated:
            saved = n_accepted * source.saving
            self._add(saved)
            self._advances[drafter] = max(self._advances.get(drafter, 0.0) - saved, 0.0)
        n_tested = n_accepted + (n_accepted < n)  # what follows the first wrong token says nothing
        source.rate += (1 - (1 - _SMOOTHING) ** n_tested) * (n_accepted / n_tested - source.rate)
        source.n_drafts, source.n_steps = source.n_drafts + 1, 0

    def finish(self, slot: int) -> None:
        """Forget the response in a slot, and what its drafts have saved."""
        if self._balance is not None:
            self._balance = min(self._balance, _FIRST_CREDIT * self._step)
        for drafter, other in [key for key in self._sources if key[1] == slot]:
            source = self._sources.pop((drafter, other))
            if source.n_drafts:
                rate = self._rates.get(drafter, _FIRST_RATE)
                self._rates[drafter] = rate + _RATE_SMOOTHING * (source.rate - rate)

    def take(self, slot: int) -> dict[str, Source]:
        """Remove and return what is known about the drafts of a response that gives up its slot, by drafter."""
        return {name: self._sources.pop((name, of)) for name, of in list(self._sources) if of == slot}

    def put(self, slot: int, sources: Mapping[str, Source]) -> None:
        """Record what `take` has returned for a response that has a slot again."""
        self._sources.update({(name, slot): source for name, source in sources.items()})

    def _source(self, drafter: str, slot: int) -> Source:
        key = (drafter, slot)
        if key not in self._sources:
            self._sources[key] = Source(self._rates.get(drafter, _FIRST_RATE))
        return self._sources[key]

    def _add(self, seconds: float) -> None:
        if self._balance is not None:
            self._balance = min(self._balance + seconds, _MAX_CREDIT * self._step)
