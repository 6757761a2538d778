"""Draws a token from the candidates that the samplers left."""

from __future__ import annotations

import numpy as np

from llamafw.errors import GenerationError
from llamafw.types import Candidates

_BLOCK = 256  # candidates per block when there are many


def draw(candidates: Candidates, random: np.random.Generator) -> int:
    """Draw one of the candidates, with the softmax of their logits as probabilities.

    Sums are computed in float64. A single candidate needs no random number.

    Raises
    ------
    GenerationError
        The logits are infinite or NaN.
    """
    ids, logits = candidates.ids, candidates.logits
    if len(ids) == 1:
        return int(ids[0])
    peak = logits.max()
    if not np.isfinite(peak):
        raise GenerationError("the samplers left logits that are infinite or not a number")

    weights = np.exp(logits - peak)
    start = 0
    target = random.random()
    if len(weights) > 4 * _BLOCK:  # find the block first, because a running float64 sum of 49k numbers is slow
        n_whole = len(weights) // _BLOCK * _BLOCK
        block_sums = weights[:n_whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
        sums = np.append(block_sums, weights[n_whole:].sum(dtype=np.float64)).cumsum()
        target *= sums[-1]
        block = _first_above(sums, target)
        target -= sums[block - 1] if block else 0.0
        start = block * _BLOCK
        sums = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    else:
        sums = weights.cumsum(dtype=np.float64)
        target *= sums[-1]
    return int(ids[start + _first_above(sums, target)])


def _first_above(sums: np.ndarray[tuple[int], np.dtype[np.float64]], target: float) -> int:
    """Return the index of the first running sum above ``target``.

    If rounding leaves none, return the last candidate whose weight is not zero.
    """
    i = int(sums.searchsorted(target, side="right"))
    return i if i < len(sums) else int(sums.searchsorted(sums[-1], side="left"))
