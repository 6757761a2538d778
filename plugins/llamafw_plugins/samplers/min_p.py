"""Drop tokens that are much less likely than the likeliest."""
from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext, largest


class MinP:
    """Keep candidates at least p times as likely as the likeliest: logit ≥ max + ln p. Their order stays.

    Nguyen et al.: Turning Up the Heat: Min-p Sampling (2024), §3.
    """

    options: ClassVar[JsonSchema] = {
        "min_p": {
            "type": "number",
            "default": 0.05,
            "minimum": 0,
            "maximum": 1,
            "description": "Drop tokens less likely than P times the likeliest; 0: none.",
        }
    }
    truncates: ClassVar[bool] = True

    def __init__(self, p: float, min_keep: int) -> None:
        self._log_p, self._min_keep = log(min(p, 1.0)), min_keep

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        p = float(options["min_p"])
        return cls(p, context.min_keep) if p > 0 else None

    def apply(self, candidates: Candidates) -> None:
        logits = candidates.logits
        peak = float(logits[0] if candidates.sorted else logits.max())
        keep = np.flatnonzero(logits >= peak + self._log_p)
        if len(keep) < self._min_keep:
            keep = np.sort(largest(logits, self._min_keep))
        if len(keep) < len(logits):
            candidates.ids, candidates.logits = candidates.ids[keep], logits[keep]

    def accept(self, token: int) -> None:
        """Remember nothing."""
