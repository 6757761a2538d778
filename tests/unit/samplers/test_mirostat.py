"""Mirostat equals its two published algorithms and adapts to the tokens drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from llamafw import Candidates, SamplerContext
from llamafw_plugins.samplers.mirostat import Mirostat
from support.toy_model import ToyTokenizer
from unit.samplers.test_formulas import HUGE, N_VOCAB, descending, probabilities, run, scores


def expected_mu(tau: float, eta: float, surprises: Sequence[float]) -> float:
    """Return Mirostat's µ after tokens of these surprises."""
    mu = 2 * tau
    for surprise in surprises:
        mu -= eta * (surprise - tau)
    return mu


@pytest.mark.inventory("S-16", "E-029", "E-030", "E-031", "C-089", "C-090", "C-091")
@given(row=scores, tau=st.floats(0, 20), ordered=st.booleans())
@example(row=HUGE, tau=5.0, ordered=False)
def test_mirostat_2_matches_its_algorithm(row: list[float], tau: float, ordered: bool) -> None:
    left = run(Mirostat, row, {"mirostat": 2, "mirostat_tau": tau}, ordered=ordered)
    order = descending(row)
    with np.errstate(divide="ignore"):
        bits = -np.log2(probabilities(row)[order])
    assume(np.abs(bits - 2 * tau).min() > 1e-4)
    n = max(int((bits <= 2 * tau).sum()), 1)
    assert left.ids.tolist() == order[:n]


def zipf_count(s: float, n_vocab: int, mu: float) -> float:
    """Return the number of tokens with at most µ bits of surprise, by Zipf's law with exponent s over ``n_vocab``."""
    epsilon = s - 1
    quotient = 1 / math.log(n_vocab) if abs(epsilon) < 1e-9 else -epsilon / math.expm1(-epsilon * math.log(n_vocab))
    power = math.log2(quotient) + mu
    if s == 0:
        return math.inf if power >= 0 else 0.0
    return float(2 ** min(power / s, 100.0))


@pytest.mark.inventory("S-16", "E-029", "C-089")
@given(row=scores, tau=st.floats(0, 20), ordered=st.booleans())
@example(row=[0.0, 1e-16], tau=0.0, ordered=False)  # almost equal: one remains
@example(row=[0.0, 0.0], tau=0.0, ordered=False)
@example(row=[0.0, 1e-16], tau=20.0, ordered=False)
@example(row=[0.0] * 300, tau=20.0, ordered=True)
@example(row=HUGE, tau=5.0, ordered=False)
def test_mirostat_1_matches_its_algorithm(row: list[float], tau: float, ordered: bool) -> None:
    left = run(Mirostat, row, {"mirostat": 1, "mirostat_tau": tau}, ordered=ordered)
    order = descending(row)
    p = [value for value in probabilities(row)[order][:100] if value > 0]
    n_vocab, n = max(len(row), N_VOCAB), 1
    if len(p) > 1:
        t = [math.log((i + 2) / (i + 1)) for i in range(len(p) - 1)]
        b = [math.log(p[i] / p[i + 1]) for i in range(len(p) - 1)]
        s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
        highest, lowest = (
            int(min(max(zipf_count(max(s + error, 0.0), n_vocab, 2 * tau), 1), len(row))) for error in (-1e-12, 1e-12)
        )
        assume(highest == lowest)  # otherwise rounding decides
        n = highest
    assert left.ids.tolist() == order[:n]


@pytest.mark.inventory("S-16", "E-031", "C-090")
@given(eta=st.floats(0, 2), tokens=st.lists(st.integers(0, 7), max_size=6))
def test_mirostat_adapts_to_surprise(eta: float, tokens: list[int]) -> None:
    row = [3.0, 2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -2.0]
    defaults = {name: schema["default"] for name, schema in Mirostat.options.items()}
    context = SamplerContext((), N_VOCAB, 10, ToyTokenizer())
    sampler: Any = Mirostat.create(defaults | {"mirostat": 2, "mirostat_eta": eta, "mirostat_tau": 3.0}, context)
    assert sampler is not None
    surprises = []
    for token in tokens:
        candidates = Candidates(np.arange(8, dtype=np.int32), np.array(row, np.float32))
        sampler.apply(candidates)
        left = candidates.ids.tolist()
        chance = probabilities([row[i] for i in left])
        if token in left:
            surprises.append(-math.log2(chance[left.index(token)]))
        sampler.accept(token)
        assert sampler._mu == pytest.approx(expected_mu(3.0, eta, surprises), abs=1e-4)
