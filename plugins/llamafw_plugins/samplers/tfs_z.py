"""Tail-free sampling: drop the tail, which begins where the probabilities stop to bend."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext


class TfsZ:
    """Keep the likeliest candidates up to where the sizes of the second derivative sum up to more than Z.

    The derivatives are differences of neighbouring probabilities, in descending order; their sizes are divided by their
    sum. Phénix and Egan: Tail Free Sampling (2019), https://trentbrick.github.io/Tail-Free-Sampling.
    """

    options: ClassVar[JsonSchema] = {
        "tfs_z": {
            "type": "number",
            "default": 1.0,
            "minimum": 0,
            "maximum": 1,
            "description": "Tail-free sampling with parameter Z; 1: off.",
        }
    }
    truncates: ClassVar[bool] = True

    def __init__(self, z: float, min_keep: int) -> None:
        self._z, self._min_keep = z, min_keep

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        z = float(options["tfs_z"])
        return cls(z, max(context.min_keep, 1)) if z < 1 else None

    def apply(self, candidates: Candidates) -> None:
        n = len(candidates.ids)
        if n < 3:  # nothing bends
            return
        order = slice(None) if candidates.sorted else np.lexsort((candidates.ids, -candidates.logits))
        logits = candidates.logits[order]
        weights = np.exp((logits - logits[0]).astype(np.float64))
        bends = np.abs(np.diff(weights / weights.sum(), 2))
        total = bends.sum()
        sums = (bends / total if total > 1e-12 else np.full(n - 2, 1 / (n - 2))).cumsum()
        beyond = np.flatnonzero(sums > self._z)
        if len(beyond):
            keep = max(int(beyond[0]), self._min_keep)
            candidates.ids, candidates.logits = candidates.ids[order][:keep], logits[:keep]
            candidates.sorted = True

    def accept(self, token: int) -> None:
        """Remember nothing."""
