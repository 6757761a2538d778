"""The length of drafts follows what steps cost and how many tokens are accepted, and losses are limited."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llamafw.engine.draft_tuner import DraftTuner
from llamafw.engine.step_times import StepTimes

Cost = Callable[[int], float]


class Simulation:
    """A response with one drafter on a machine whose steps take ``cost(n_tokens)`` seconds.

    Parameters
    ----------
    cost : callable
        The duration of a step by its number of tokens.
    rate : float
        Probability that a token of a draft is right if those before it are.
    guess_cost : float
        Seconds to guess a token.
    """

    def __init__(self, cost: Cost, rate: float, guess_cost: float = 0.0, n_max: int = 48) -> None:
        self.now = 0.0
        self.tuner = DraftTuner(StepTimes(lambda: self.now))
        self.cost, self.rate, self.guess_cost, self.n_max = cost, rate, guess_cost, n_max
        self.random = np.random.default_rng(0)
        self.n_tokens = self.n_steps = 0
        self.lengths: list[int] = []

    def run(self, n_tokens: int) -> float:
        """Generate tokens; return the speed in relation to steps of one token."""
        start, first = self.now, self.n_tokens
        while self.n_tokens < first + n_tokens:
            self.step()
        return self.cost(1) * (self.n_tokens - first) / (self.now - start)

    def step(self) -> None:
        n = n_right = 0
        self.n_steps += 1
        if self.tuner.may_try:
            chosen = self.tuner.choose("d", 0, 1, 1, 0)
            n_guessed = min(chosen or 4, self.n_max)
            seconds = self.guess_cost * n_guessed
            self.now += seconds
            self.tuner.charge_guess("d", n_guessed, seconds)
            n_right = int((self.random.random(n_guessed) < self.rate).cumprod().sum())
            if chosen:
                n = n_guessed
                self.tuner.charge(1, 1, n)
            else:
                self.tuner.record_draft("d", 0, n_guessed, n_right, evaluated=False)
        seconds = self.cost(1 + n)
        self.now += seconds
        self.tuner.record_step(1, 1 + n, seconds)
        self.lengths.append(n)
        if n:
            self.tuner.record_draft("d", 0, n, n_right)
        self.n_tokens += 1 + (n_right if n else 0)


def flat(n: int) -> float:
    """Return the cost on a machine that computes many tokens nearly as fast as one."""
    return 0.01 + 0.0001 * n


def steep(n: int) -> float:
    """Return the cost on a machine on which each further token costs a third of the first."""
    return 0.003 + 0.001 * (n - 1)


def hopeless(n: int) -> float:
    """Return the cost on a machine on which two tokens take longer than two steps."""
    return 0.003 * n + 0.004 * (n > 1)


@pytest.mark.parametrize(
    ("cost", "rate", "least"),
    [(flat, 1.0, 20), (flat, 0.8, 3.0), (flat, 0.5, 1.5), (steep, 1.0, 2.5), (steep, 0.9, 1.4), (steep, 0.7, 1.1)],
)
def test_drafts_are_long_if_that_pays(cost: Cost, rate: float, least: float) -> None:
    simulation = Simulation(cost, rate)
    simulation.run(200)
    assert simulation.run(3000) > least


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("cost", [flat, steep, hopeless])
@pytest.mark.parametrize("guess_cost", [0.0, 0.002])
def test_drafts_never_cost_more_than_three_percent(cost: Cost, rate: float, guess_cost: float) -> None:
    simulation = Simulation(cost, rate, guess_cost)
    assert simulation.run(2000) > 0.97


def test_drafts_end_when_they_are_not_accepted_any_more() -> None:
    simulation = Simulation(steep, 0.95)
    simulation.run(300)
    assert np.mean(simulation.lengths[-20:]) > 3
    simulation.rate = 0.05
    assert simulation.run(1000) > 0.96  # 2 %, and some of what the drafts before have saved
    assert simulation.cost(1) * simulation.n_tokens / simulation.now > 1.0
    assert simulation.run(1000) > 0.97
    assert np.mean(simulation.lengths[-100:]) < 0.2
    simulation.rate = 0.95
    assert simulation.run(1000) > 1.3  # they are compared all the time, so drafts resume


def test_single_slow_step_ends_drafts_only_for_a_while() -> None:
    simulation = Simulation(steep, 0.95)
    normal, simulation.cost = simulation.cost, lambda n: 0.1 if n > 1 else 0.003
    for _ in range(6):
        simulation.step()
    simulation.cost = normal
    simulation.run(3000)
    assert simulation.run(1000) > 1.3


class SimulationWithReading(Simulation):
    """A simulation of responses of 100 tokens, whose drafter must read for a while before its first guess.

    Parameters
    ----------
    read_cost : float
        Seconds to read a part of the text; there are four.
    """

    def __init__(self, cost: Cost, rate: float, read_cost: float) -> None:
        super().__init__(cost, rate, guess_cost=0.0002)
        self.read_cost, self.n_read = read_cost, 0

    def respond(self) -> None:
        """Generate a response."""
        self.n_read, end = 0, self.n_tokens + 100
        while self.n_tokens < end:
            if self.n_read < 4:
                if self.tuner.may_try:
                    self.n_read += 1
                    self.now += self.read_cost
                    self.tuner.charge_guess("d", 0, self.read_cost)
                self.now += self.cost(1)
                self.tuner.record_step(1, 1, self.cost(1))
                self.n_tokens += 1
            else:
                self.step()
        self.tuner.finish(0)

    def speed(self, n_responses: int) -> float:
        """Return the speed of some responses in relation to steps of one token."""
        start, first = self.now, self.n_tokens
        for _ in range(n_responses):
            self.respond()
        return self.cost(1) * (self.n_tokens - first) / (self.now - start)


def test_reading_a_text_is_worth_its_time_if_it_saves_more() -> None:
    simulation = SimulationWithReading(flat, 0.9, read_cost=0.02)
    simulation.speed(3)
    assert simulation.speed(20) > 2.5


def test_reading_texts_in_vain_is_limited() -> None:
    simulation = SimulationWithReading(flat, 0.0, read_cost=0.05)
    simulation.speed(10)  # what it may read in advance
    assert simulation.speed(50) > 0.97


def test_next_response_begins_with_what_is_known() -> None:
    simulation = Simulation(steep, 0.0)
    for _ in range(20):
        simulation.run(20)
        simulation.tuner.finish(0)
    assert sum(simulation.lengths[-100:]) <= 8


def test_nothing_is_drafted_before_steps_were_measured() -> None:
    tuner = DraftTuner(StepTimes(lambda: 0.0))
    assert tuner.choose("d", 0, 1, 1, 0) == 0
    tuner.record_step(1, 1, 0.01)
    assert tuner.choose("d", 0, 1, 1, 0) == 0
    tuner.record_step(1, 1, 0.01)
    assert tuner.choose("d", 0, 1, 1, 0) > 0


def test_drafters_that_guess_nothing_are_asked_less_often() -> None:
    tuner, asked = DraftTuner(), []
    for i in range(20):
        if not tuner.skips("d", 0):
            asked.append(i)
            tuner.record_guess("d", 0, 0)
    assert asked == [0, 2, 5, 9, 13, 17]
    assert not tuner.skips("d", 1)  # another response

    tuner.skips("d", 0)
    tuner.record_guess("d", 0, 1)
    assert not any(tuner.skips("d", 0) for _ in range(5))


def test_minimum_length_is_kept() -> None:
    simulation = Simulation(flat, 0.9)
    simulation.run(100)
    for n_min in (0, 3, 7):
        simulation.tuner.record_draft("d", 0, 4, 4)  # lets it choose again
        assert simulation.tuner.choose("d", 0, 1, 1, n_min) >= max(n_min, 1)


def test_times_between_measurements_are_interpolated() -> None:
    now = [0.0]
    times = StepTimes(lambda: now[0])
    assert times.plain(1) is None
    for n_tokens, seconds in [(1, 2.0), (1, 4.0), (1, 3.0), (5, 7.0), (9, 8.0)]:
        times.record(1, n_tokens, seconds)
    assert times.plain(1) == 3.0
    assert times.wide(1, np.array([1, 3, 5, 7, 9])).tolist() == [3.0, 5.0, 7.0, 7.5, 8.0]
    assert times.wide(1, np.array([17])).tolist() == [8.0 + 8 * 5 / 8]  # the mean slope goes on
    assert times.most_tokens(1) == 9
    now[0] = 61.0
    assert times.plain(1) is None
    assert times.most_tokens(1) == 1


def test_unmeasured_tokens_cost_a_quarter_of_a_step() -> None:
    times = StepTimes(lambda: 0.0)
    times.record(2, 2, 4.0)
    times.record(2, 2, 4.0)
    assert times.wide(2, np.array([2, 3, 6])).tolist() == [4.0, 5.0, 8.0]
