"""Slow samplers and grammars are counted, and the log names them."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from llamafw import GenerateRequest
from llamafw.interfaces import SamplerContext
from llamafw.sampling.chain import build_chain
from llamafw.sampling.constraint import Constraint
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw.sampling.slow_calls import TOKEN_LIMIT, SlowCalls
from llamafw.types import GrammarSource
from support.toy_model import ToyTokenizer

N = 264


class Clock:
    """A clock that a slow part sets forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return perf_counter() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("llamafw.sampling.chain.perf_counter", clock)
    return clock


class Slow:
    """A sampler, its plugin and a grammar, each of whose calls takes the given seconds."""

    truncates = False
    options: dict[str, Any] = {}
    ended = False

    def __init__(self, clock: Clock, *, apply: float = 0, accept: float = 0, mask: float = 0, accepts: bool = True):
        self.clock, self.times = clock, {"apply": apply, "accept": accept, "mask": mask}
        self.accepts = accepts

    def create(self, options: Any, context: Any) -> Slow:
        return self

    def apply(self, candidates: Any) -> None:
        self.clock.ahead += self.times["apply"]

    def accept(self, token: int) -> bool:
        self.clock.ahead += self.times["accept"]
        accepted, self.accepts = self.accepts, True
        return accepted

    def mask(self, logits: Any) -> None:
        self.clock.ahead += self.times["mask"]


def picked(slow: SlowCalls, clock: Clock, n: int = 1, grammar: Any = None, **times: Any) -> None:
    """Draw ``n`` tokens with a sampler and a grammar."""
    context = SamplerContext((), N, 8, ToyTokenizer())
    source = GrammarSource("rules", "") if grammar else None
    request = GenerateRequest((), samplers=("tardy",), options={}, grammar=source)
    tardy: Any = Slow(clock, **times)
    chain = build_chain(request, 1, {"tardy": tardy}, context, slow)
    for _ in range(n):
        chain.pick(CandidateBuffers(N), np.zeros(N, np.float32), grammar and Constraint(grammar, "grammar"))


@pytest.mark.parametrize("call", ["apply", "accept"])
def test_slow_samplers_are_counted_and_named(clock: Clock, caplog: pytest.LogCaptureFixture, call: str) -> None:
    slow = SlowCalls(lambda kind, name: f"owner of {kind} {name}")
    with caplog.at_level(logging.WARNING):
        picked(slow, clock, 3, **{call: 2.0})
    assert slow.counts == {("sampler", "tardy"): 3}
    (line,) = [record.message for record in caplog.records]  # once, not for every token
    assert line.startswith("the sampler 'tardy' of plugin owner of sampler tardy took 2")
    assert line.endswith(" ms for a token; all requests waited meanwhile")


def test_slow_part_is_logged_again_if_it_takes_twice_as_long(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowCalls()
    for seconds in (1.0, 1.5, 2.5, 0.5, 6.0):
        picked(slow, clock, apply=seconds)
    assert slow.counts == {("sampler", "tardy"): 5}
    assert len(caplog.records) == 3


@pytest.mark.parametrize("times", [{"accept": 2.0}, {"mask": 2.0, "accepts": False}])
def test_slow_grammars_are_counted_too(clock: Clock, times: Any) -> None:
    slow = SlowCalls()
    picked(slow, clock, grammar=Slow(clock, **times))
    assert slow.counts == {("grammar", "rules"): 1}


def test_fast_parts_are_not_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowCalls()
    slow.record("sampler", "tardy", TOKEN_LIMIT)
    assert slow.counts == {}
    assert not caplog.records
