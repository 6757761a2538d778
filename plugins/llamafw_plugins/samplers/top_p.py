"""Nucleus sampling: keep the likeliest tokens that together have probability p."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.nucleus import nucleus


class TopP:
    """Keep the smallest set of likeliest candidates whose probabilities add up to p, in descending order.

    Holtzman et al.: The Curious Case of Neural Text Degeneration (2020), §3.1.
    """

    options: ClassVar[JsonSchema] = {
        "top_p": {
            "type": "number",
            "default": 0.95,
            "minimum": 0,
            "maximum": 1,
            "description": "Keep the likeliest tokens that together have probability P; 1: all, 0: one.",
        }
    }
    truncates: ClassVar[bool] = True

    def __init__(self, p: float, min_keep: int) -> None:
        self._p, self._min_keep = p, min_keep

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        p = float(options["top_p"])
        return cls(p, max(context.min_keep, 1)) if p < 1 else None

    def apply(self, candidates: Candidates) -> None:
        logits = candidates.logits
        if candidates.sorted:
            ends = np.exp(logits - logits[0], dtype=np.float64).cumsum()
            n = max(int(ends.searchsorted(self._p * ends[-1])) + 1, self._min_keep)
            candidates.ids, candidates.logits = candidates.ids[:n], logits[:n]
        else:
            keep = nucleus(logits, np.exp(logits - logits.max()), self._p, self._min_keep)
            candidates.ids, candidates.logits, candidates.sorted = candidates.ids[keep], logits[keep], True

    def accept(self, token: int) -> None:
        """Remember nothing."""
