"""Computes log-probabilities of tokens from logits."""

from __future__ import annotations

import numpy as np

from llamafw.sampling.largest import largest_indices
from llamafw.types import Candidates, Floats, TokenLogprob

_CHUNK = 4096  # float64 temporaries of this length fit into the first-level cache


def logprobs_of_row(row: Floats, token: int, n: int) -> tuple[float, tuple[TokenLogprob, ...]]:
    """Return the log-probability of ``token``, and the ``n`` most likely tokens, before any sampler.

    Parameters
    ----------
    row : (n_vocab,) float32
        Logits without NaN.
    """
    peak = float(row.max())
    total = 0.0
    for start in range(0, len(row), _CHUNK):
        total += float(np.exp(row[start : start + _CHUNK].astype(np.float64) - peak).sum())
    log_total = peak + float(np.log(total))

    ids = largest_indices(row, n)
    top = tuple(TokenLogprob(int(id), float(row[id]) - log_total) for id in ids)
    return float(row[token]) - log_total, top


def logprobs_of_candidates(candidates: Candidates, token: int, n: int) -> tuple[float, tuple[TokenLogprob, ...]]:
    """Return the log-probability of ``token``, and the ``n`` most likely tokens, among the candidates of the samplers.

    If fewer than ``n`` candidates are possible, all of them are returned.
    """
    logits = candidates.logits.astype(np.float64)
    peak = logits.max()
    logprobs = logits - (peak + np.log(np.exp(logits - peak).sum()))

    possible = np.flatnonzero(logprobs > -np.inf)
    ids, logprobs = candidates.ids[possible], logprobs[possible]
    best = np.lexsort((ids, -logprobs))[:n]
    top = tuple(TokenLogprob(int(ids[i]), float(logprobs[i])) for i in best)
    return float(logprobs[ids == token][0]), top
