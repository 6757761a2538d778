"""Compare what a model predicts with what another one predicted: the Kullback-Leibler divergence, as in llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from llamafw.evaluation.base_logits import BaseLogits
from llamafw.evaluation.chunks import Chunks
from llamafw.evaluation.perplexity import Doubles, Mean, Perplexity, log_probabilities, scored_rows
from llamafw.interfaces import Backend

_LOWEST = -16.0  # logarithms of probabilities below are not compared


@dataclass(slots=True)
class Comparison:
    """The result for the chunks so far."""

    perplexity: Perplexity = field(default_factory=Perplexity)
    base: Perplexity = field(default_factory=Perplexity)  # of the other model
    log_ratio: Mean = field(default_factory=Mean)  # ln of the ratio of the perplexities
    divergence: Mean = field(default_factory=Mean)
    same_top: Mean = field(default_factory=Mean)  # 1 where both models find the same token likeliest
    squared_difference: Mean = field(default_factory=Mean)  # of the probabilities of the text's tokens
    divergences: list[Doubles] = field(default_factory=list)  # of each token

    @property
    def rms_difference(self) -> float:
        """Root of the mean squared difference of the probabilities of the text's tokens."""
        return math.sqrt(self.squared_difference.value)

    def quantile(self, q: float) -> float:
        """Return a quantile of the divergences of the tokens."""
        return float(np.quantile(np.concatenate(self.divergences), q))


def compare(
    backend: Backend, base: BaseLogits, bos: int | None, finished: Callable[[Comparison], None] = lambda result: None
) -> Comparison:
    """Return how much a model differs from the one that a file was written with.

    Parameters
    ----------
    backend : Backend
        Runs the model.
    base : BaseLogits
        What the other model predicted.
    bos : int, optional
        The token that replaces the first one of each chunk.
    finished : callable
        Receives the result so far after each chunk.
    """
    result, chunks = Comparison(), Chunks(base.tokens, bos)
    for seen, chunk, expected in zip(chunks, base.tokens, base, strict=True):
        first = 0
        for rows, targets in scored_rows(backend, seen, chunk):
            shifted, log_sums = log_probabilities(rows[:, : base.n_vocab])
            found = shifted - log_sums[:, None]  # (n, n_vocab) float64
            wanted, each = expected[first : first + len(rows)], np.arange(len(rows))
            first += len(rows)

            nll, base_nll = -found[each, targets], -wanted[each, targets].astype(np.float64)
            terms = np.where(wanted > _LOWEST, np.exp(wanted) * (wanted - found), 0)
            divergences = terms.sum(axis=1, dtype=np.float64)
            result.perplexity.nll.add(nll)
            result.base.nll.add(base_nll)
            result.log_ratio.add(nll - base_nll)
            result.divergence.add(divergences)
            result.divergences.append(divergences)
            result.same_top.add((found.argmax(axis=1) == wanted.argmax(axis=1)).astype(np.float64))
            result.squared_difference.add(np.square(np.exp(-nll) - np.exp(-base_nll)))
        finished(result)
    return result
