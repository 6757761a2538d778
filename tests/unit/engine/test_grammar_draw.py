"""The distribution of tokens drawn under a grammar."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llamafw import Floats, GenerateRequest, SamplerContext
from llamafw.sampling.chain import build_chain
from llamafw.sampling.constraint import Constraint
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw_plugins.samplers.temperature import Temperature
from llamafw_plugins.samplers.top_k import TopK

pytestmark = pytest.mark.slow

CHI2_9 = 46.9
"""Quantile of chi-square with 9 degrees of freedom, exceeded with probability 3e-7."""
N, N_DRAWS = 10, 60_000


class Allows:
    """A grammar that always allows the same tokens."""

    ended = False

    def __init__(self, *tokens: int) -> None:
        self.tokens = list(tokens)

    def accept(self, token: int) -> bool:
        return token in self.tokens

    def mask(self, logits: Floats) -> None:
        keep = logits[self.tokens]
        logits[:] = -np.inf
        logits[self.tokens] = keep

    def copy(self) -> Allows:
        return Allows(*self.tokens)


def top(logits: Any, k: int, temperature: float) -> Any:
    """Return the probabilities of the chain top_k, temperature, in float64."""
    scores = np.where(logits >= np.sort(logits)[-k], logits.astype(np.float64) / temperature, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


@pytest.mark.inventory("S-01", "S-02")
@pytest.mark.parametrize("allowed", [(0, 2, 5), (7, 8, 9), tuple(range(N))])
def test_refused_tokens_are_drawn_again_from_the_masked_logits(allowed: tuple[int, ...]) -> None:
    logits = np.linspace(2, -1, N).astype(np.float32)  # top_k keeps 0 … 3
    tokenizer: Any = SimpleNamespace(eog=frozenset())
    context = SamplerContext((), N, 100, tokenizer)
    request = GenerateRequest((), samplers=("top_k", "temperature"), options={"top_k": 4, "temperature": 1.3})
    plugins: Any = {"top_k": TopK, "temperature": Temperature}
    chain, buffers = build_chain(request, 1, plugins, context), CandidateBuffers(N)
    constraint = Constraint(Allows(*allowed), "grammar")
    counts = Counter(chain.pick(buffers, logits.copy(), constraint)[0] for _ in range(N_DRAWS))
    usual = top(logits, 4, 1.3)
    fits = np.isin(np.arange(N), allowed)
    masked = top(np.where(fits, logits, -np.inf), min(4, len(allowed)), 1.3)
    expected = np.where(fits, usual, 0) + usual[~fits].sum() * masked
    assert expected.sum() == pytest.approx(1)
    assert all(expected[token] > 0 for token in counts)
    likely = np.flatnonzero(expected)
    found = np.array([counts[int(token)] for token in likely])
    assert ((found - N_DRAWS * expected[likely]) ** 2 / (N_DRAWS * expected[likely])).sum() < CHI2_9
