"""XTC and adaptive-p equal their definitions, depend on the seed only, and draw with the expected frequencies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from llamafw import Candidates, GenerateRequest, SamplerContext
from llamafw.sampling.chain import build_chain
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw_plugins.samplers.adaptive_p import AdaptiveP
from llamafw_plugins.samplers.xtc import Xtc
from support.toy_model import ToyTokenizer
from unit.samplers.test_draw import CHI2, chi_square
from unit.samplers.test_formulas import HUGE, descending, kept, probabilities, run, scores

WORDS = [2.0, 1.6, 1.0, 0.4, 0.0, -0.5, -1.0, -2.0, -3.0, -4.0]


@pytest.mark.inventory("M-02", "E-039")
@given(row=scores, threshold=st.floats(0.001, 0.5), min_keep=kept, ordered=st.booleans())
@example(row=HUGE, threshold=0.01, min_keep=0, ordered=False)
@example(row=[0.0] * 4, threshold=0.25, min_keep=0, ordered=False)
def test_xtc_matches_its_definition(row: list[float], threshold: float, min_keep: int, ordered: bool) -> None:
    left = run(Xtc, row, {"xtc_probability": 1.0, "xtc_threshold": threshold}, min_keep=min_keep, ordered=ordered)
    p = probabilities(row)
    assume(threshold == 0.25 or np.abs(p - threshold).min() > 1e-6)
    order = descending(row)
    n_top = int((p >= threshold).sum())
    removed = set(order[: n_top - 1]) if n_top > 1 and len(row) - n_top + 1 >= min_keep else set()
    before = order if ordered else list(range(len(row)))
    assert left.ids.tolist() == [token for token in before if token not in removed]
    assert left.sorted == ordered


def test_xtc_depends_on_seed_and_probability_only() -> None:
    removals: list[list[bool]] = []
    for seed in (5, 5, 6):
        sampler = Xtc(0.3, 0.1, seed=seed)
        removals.append([])
        for _ in range(10_000):
            results = []
            for _ in "ab":  # a grammar may refuse the first token
                candidates = Candidates(np.arange(2, dtype=np.int32), np.zeros(2, np.float32))
                sampler.apply(candidates)
                results.append(len(candidates.ids) == 1)
            assert results[0] == results[1]
            removals[-1].append(results[0])
            sampler.accept(0)
    assert removals[0] == removals[1] != removals[2]
    assert abs(sum(removals[0]) - 3000) < 5 * (10_000 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize(("probability", "threshold"), [(0, 0.1), (1, 0.51)])
def test_xtc_can_be_off(probability: float, threshold: float) -> None:
    context = SamplerContext((), 10, 10, ToyTokenizer())
    assert Xtc.create({"xtc_probability": probability, "xtc_threshold": threshold}, context) is None


def transformed(p: npt.NDArray[np.float64], target: float) -> npt.NDArray[np.float64]:
    """Return the probabilities that adaptive-p makes of ``p`` for an adapted target."""
    distance = np.abs(p - target) / 0.3
    weights = np.exp(5 - 10 * distance**2 / (1 + distance)) * (p > 0)
    return np.asarray(weights / weights.sum())


@given(
    row=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=40),
    target=st.floats(0, 1),
    decay=st.floats(0, 0.99),
    drawn=st.lists(st.integers(0, 39), max_size=8),
)
def test_adaptive_p_matches_its_definition(row: list[float], target: float, decay: float, drawn: list[int]) -> None:
    """A token that was not a candidate does not count."""
    context = SamplerContext((), len(row), 10, ToyTokenizer())
    options = {"adaptive_target": target, "adaptive_decay": decay, "temperature": 0.8}
    sampler: Any = AdaptiveP.create(options, context)
    p, total, weight = probabilities(row), target / (1 - decay), 1 / (1 - decay)
    for token in (*drawn, None):
        candidates = Candidates(np.arange(len(row), dtype=np.int32), np.array(row, np.float32))
        sampler.apply(candidates)
        adapted = min(max(2 * target - total / weight, 0), 1)
        np.testing.assert_allclose(
            probabilities(candidates.logits.tolist()), transformed(p, adapted), rtol=1e-4, atol=1e-7
        )
        if token is not None:
            sampler.accept(token)
            if token < len(row):
                total, weight = p[token] + decay * total, 1 + decay * weight


def test_adaptive_p_keeps_forbidden_tokens_forbidden() -> None:
    left = run(AdaptiveP, [1.0, -np.inf, 0.0], {"adaptive_target": 0.0})
    assert left.logits[1] == -np.inf
    assert np.isfinite(left.logits[[0, 2]]).all()


@pytest.mark.parametrize("options", [{"adaptive_target": -0.01}, {"adaptive_target": 0.5, "temperature": 0.0}])
def test_adaptive_p_can_be_off(options: dict[str, float]) -> None:
    defaults = {name: schema["default"] for name, schema in AdaptiveP.options.items()}
    assert AdaptiveP.create(defaults | options, SamplerContext((), 10, 10, ToyTokenizer())) is None


@pytest.mark.slow
@pytest.mark.inventory("M-02")
def test_xtc_draws_with_expected_frequencies(samplers: Any) -> None:
    """In a share of the draws the likeliest tokens are missing."""
    row, n = np.array(WORDS, np.float32), 40_000
    options = {"xtc_probability": 0.4, "xtc_threshold": 0.1, "temperature": 1.0}
    request = GenerateRequest((), samplers=("xtc", "temperature"), options=options)
    chain = build_chain(request, 3, samplers, SamplerContext((), 10, 10, ToyTokenizer(), seed=3))
    buffers = CandidateBuffers(10)
    counts = Counter(chain.pick(buffers, row.copy())[0] for _ in range(n))

    p = probabilities(WORDS)
    n_top = int((p >= 0.1).sum())
    assert n_top == 3
    rest = np.where(np.arange(10) < n_top - 1, 0, p)
    expected = dict(enumerate((0.6 * p + 0.4 * rest / rest.sum()).tolist()))
    assert chi_square(counts, expected, n) < CHI2[9]


@pytest.mark.slow
def test_adaptive_p_draws_with_expected_frequencies(samplers: Any) -> None:
    """With a decay of 0 the target depends on the last token only, so the draws after each token are compared."""
    row, n = np.array(WORDS, np.float32), 60_000
    options = {"adaptive_target": 0.3, "adaptive_decay": 0.0, "temperature": 1.0}
    request = GenerateRequest((), samplers=("adaptive_p",), options=options)
    chain = build_chain(request, 8, samplers, SamplerContext((), 10, 10, ToyTokenizer()))
    buffers = CandidateBuffers(10)
    tokens = [chain.pick(buffers, row.copy())[0] for _ in range(n)]

    p = probabilities(WORDS)
    for last in range(3):
        after = [token for before, token in zip(tokens, tokens[1:], strict=False) if before == last]
        assert len(after) > 1000
        expected = dict(enumerate(transformed(p, min(max(0.6 - p[last], 0), 1)).tolist()))
        assert chi_square(Counter(after), expected, len(after)) < CHI2[9]
    assert np.mean(p[tokens]) == pytest.approx(0.27, abs=0.06)  # most draws come near the target
