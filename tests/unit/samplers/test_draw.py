"""Tokens are drawn with the expected frequencies, with and without samplers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from llamafw import Candidates, GenerateRequest, GenerationError, SamplerContext
from llamafw.sampling.chain import build_chain
from llamafw.sampling.draw import draw
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw_plugins.samplers import DEFAULT_ORDER, MIROSTAT_ORDER
from support.toy_model import ToyTokenizer

pytestmark = pytest.mark.slow

# The value that chi-square exceeds once in a million, by degrees of freedom; integrated from its density.
CHI2 = {4: 33.38, 6: 38.26, 8: 42.70, 9: 44.81, 49: 111.14}


def chi_square(counts: Counter[int], expected: dict[int, float], n: int) -> float:
    assert set(counts) <= set(expected)
    return sum((counts[token] - n * p) ** 2 / (n * p) for token, p in expected.items())


@pytest.mark.inventory("S-01")
@pytest.mark.parametrize("n_candidates", [5, 10, 50])
def test_tokens_are_drawn_with_their_probabilities(n_candidates: int) -> None:
    logits = np.linspace(-2, 1, n_candidates).astype(np.float32)
    ids = np.arange(100, 100 + n_candidates, dtype=np.int32)[::-1].copy()
    weights = np.exp(logits.astype(np.float64))
    expected = dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))
    random, n = np.random.default_rng(42), 40_000
    counts = Counter(draw(Candidates(ids, logits), random) for _ in range(n))
    assert chi_square(counts, expected, n) < CHI2[n_candidates - 1]


def test_a_whole_vocabulary_is_drawn_with_its_probabilities() -> None:
    """The vocabulary is not a multiple of a block.

    Tokens are counted by their last digit; one digit is forbidden.
    """
    n_vocab, n = 49_157, 20_000
    random = np.random.default_rng(7)
    logits = random.standard_normal(n_vocab).astype(np.float32) * 2
    digit = np.arange(n_vocab) % 10
    logits[digit == 3] = -np.inf
    weights = np.exp(logits.astype(np.float64))
    expected = {d: float(weights[digit == d].sum() / weights.sum()) for d in range(10) if d != 3}
    candidates = Candidates(np.arange(n_vocab, dtype=np.int32), logits)
    counts = Counter(int(digit[draw(candidates, random)]) for _ in range(n))
    assert chi_square(counts, expected, n) < CHI2[8]


class ConstantRandom:
    """A random number generator that always returns the same number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("at", [0.0, 0.5, np.nextafter(1, 0)])
@pytest.mark.parametrize("n", [3, 5000])
def test_forbidden_tokens_are_never_drawn(at: float, n: int) -> None:
    logits = np.full(n, -np.inf, np.float32)
    logits[n // 2] = 1
    source: Any = ConstantRandom(at)
    assert draw(Candidates(np.arange(n, dtype=np.int32), logits), source) == n // 2


@pytest.mark.parametrize("n", [40, 5000, 5003])
def test_largest_random_number_draws_an_allowed_token(n: int) -> None:
    """The running sums of a block and of all blocks are rounded differently; the largest number must suit both."""
    last: Any = ConstantRandom(np.nextafter(1, 0))
    for seed in range(300):
        logits = (np.random.default_rng(seed).standard_normal(n) * 15).astype(np.float32)
        allowed = 1 + seed * 17 % (n - 1)
        logits[allowed:] = -np.inf
        assert draw(Candidates(np.arange(n, dtype=np.int32), logits), last) < allowed


def test_single_candidate_needs_no_random_number() -> None:
    nothing: Any = None
    assert draw(Candidates(np.array([7], np.int32), np.array([-3], np.float32)), nothing) == 7


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_draw_refuses_nan_and_infinity(bad: float) -> None:
    with pytest.raises(GenerationError):
        draw(Candidates(np.arange(2, dtype=np.int32), np.array([1, bad], np.float32)), np.random.default_rng(0))


@pytest.mark.inventory("S-01")
def test_the_default_chain_draws_with_expected_frequencies(samplers: Any) -> None:
    """The expected distribution is computed step by step in float64."""
    row = np.array([3, 2.5, 2, 1.5, 1, 0.5, 0, -8, -9, -10], np.float32)
    options = {"top_k": 8, "top_p": 0.97, "min_p": 0.08, "temperature": 0.7, "presence_penalty": 1.0}
    request = GenerateRequest((0, 1), samplers=DEFAULT_ORDER, options=options, logit_bias={2: 0.25})
    context, buffers, n = SamplerContext((0, 1), 10, 100, ToyTokenizer()), CandidateBuffers(10), 4000
    # a chain for each draw, because drawn tokens are penalised afterwards
    counts = Counter(build_chain(request, seed, samplers, context).pick(buffers, row.copy())[0] for seed in range(n))

    logits = row.astype(np.float64)
    logits[2] += 0.25
    logits[[0, 1]] -= 1.0
    order = np.argsort(-logits, kind="stable")[:8]
    probabilities = np.exp(logits[order]) / np.exp(logits[order]).sum()
    order = order[: int((probabilities.cumsum() < 0.97).sum()) + 1]
    probabilities = np.exp(logits[order] - logits[order].max())
    order = order[probabilities >= 0.08]
    probabilities = np.exp(logits[order] / 0.7)
    expected = dict(zip(order.tolist(), (probabilities / probabilities.sum()).tolist(), strict=True))
    assert len(expected) == 7
    assert chi_square(counts, expected, n) < CHI2[6]


@pytest.mark.inventory("S-01", "S-03")
def test_a_chain_of_all_samplers_draws_with_expected_frequencies(samplers: Any) -> None:
    """All twelve likeliest tokens are in the prompt and no penalty counts occurrences, so one chain makes all draws."""
    size = 3000
    random = np.random.default_rng(size)
    row = (random.standard_normal(size) - 9).astype(np.float32)
    best = random.permutation(size)[:12]
    row[best] = np.linspace(4, -2, 12)
    options = {
        "repeat_penalty": 1.2,
        "presence_penalty": 0.5,
        "repeat_last_n": 10**6,
        "penalize_nl": True,
        "top_k": 11,
        "tfs_z": 0.99,
        "typical_p": 0.97,
        "top_p": 0.95,
        "min_p": 0.03,
        "temperature": 0.9,
        "dynatemp_range": 0.4,
    }

    bias = {int(best[1]): -np.inf, int(best[8]): 3.0}
    request = GenerateRequest((), samplers=DEFAULT_ORDER, options=options, logit_bias=bias)
    context = SamplerContext(tuple(best.tolist()), size, 10**6, ToyTokenizer())
    chain, buffers, n = build_chain(request, 17, samplers, context), CandidateBuffers(size), 100_000
    counts = Counter(chain.pick(buffers, row.copy())[0] for _ in range(n))

    logits = row.astype(np.float64)
    logits[list(bias)] += list(bias.values())
    seen = logits[best]
    logits[best] = np.where(seen > 0, seen / 1.2, seen * 1.2) - 0.5
    left = np.argsort(-logits, kind="stable")[:11]

    def probabilities() -> Any:
        weights = np.exp(logits[left] - logits[left].max())
        return weights / weights.sum()

    bends = np.abs(np.diff(probabilities(), 2))
    left = left[: np.flatnonzero((bends / bends.sum()).cumsum() > 0.99)[0]]
    entropy = -(probabilities() * np.log(probabilities())).sum()
    order = np.argsort(np.abs(-np.log(probabilities()) - entropy), kind="stable")
    left = left[np.sort(order[: int((probabilities()[order].cumsum() <= 0.97).sum()) + 1])]
    left = left[: int((probabilities().cumsum() < 0.95).sum()) + 1]
    left = left[probabilities() >= 0.03 * probabilities().max()]
    share = -(probabilities() * np.log(probabilities())).sum() / np.log(len(left))
    logits = logits / (0.5 + 0.8 * share)
    expected = dict(zip(left.tolist(), probabilities().tolist(), strict=True))
    assert len(expected) == 5
    assert chi_square(counts, expected, n) < CHI2[4]


@pytest.mark.inventory("S-01", "S-16")
@pytest.mark.parametrize(("version", "tau"), [(1, 3.5), (2, 2.2)])
def test_mirostat_draws_with_expected_frequencies(samplers: Any, version: int, tau: float) -> None:
    """With a learning rate of 0 the chain does not change, so one chain makes all draws."""
    row = np.linspace(3, -6, 264).astype(np.float32)
    options = {"mirostat": version, "mirostat_tau": tau, "mirostat_eta": 0.0, "temperature": 0.5}
    request = GenerateRequest((), samplers=MIROSTAT_ORDER, options=options)
    chain = build_chain(request, 5, samplers, SamplerContext((), 264, 100, ToyTokenizer()))
    buffers, n = CandidateBuffers(264), 100_000
    counts = Counter(chain.pick(buffers, row.copy())[0] for _ in range(n))

    weights = np.exp(row.astype(np.float64) / 0.5)
    p = weights / weights.sum()
    if version == 2:
        left = int((-np.log2(p) <= 2 * tau).sum())
    else:
        t, b = np.log(np.arange(2, 101) / np.arange(1, 100)), np.log(p[:99] / p[1:100])
        s = float((t * b).sum() / (t * t).sum())
        left = int(((s - 1) * 2 ** (2 * tau) / (1 - 264 ** (1 - s))) ** (1 / s))
    expected = dict(enumerate((p[:left] / p[:left].sum()).tolist()))
    assert chi_square(counts, expected, n) < CHI2[left - 1]
