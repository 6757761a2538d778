"""Top-nσ: keep the tokens whose logits are within n standard deviations of the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"


class TopNSigma:
    """Keep logit ≥ max - n·σ, σ being the standard deviation of all logits. Forbidden tokens (-inf) do not count.

    Tang et al.: Top-nσ: Not All Logits Are You Need (2024), §3. The tokens that it keeps do not depend on a temperature
    that comes before it or after it.
    """

    options: ClassVar[JsonSchema] = {
        "top_n_sigma": {
            "type": "number",
            "minimum": -1,
            "maximum": 1000,
            "default": -1,
            "description": "Keep tokens whose logit is within N standard deviations of the best; 0 or less: all.",
        }
    }
    truncates: ClassVar[bool] = True
    precedes: ClassVar[str] = "top_k"

    def __init__(self, n: float) -> None:
        self.n = n

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if it is off."""
        return cls(options["top_n_sigma"]) if options["top_n_sigma"] > 0 else None

    def apply(self, candidates: Candidates) -> None:
        """Drop what is too far below the best; the best itself never is."""
        logits = candidates.logits
        possible = logits[logits > -np.inf]
        sigma = float(possible.std(dtype=np.float64))
        keep = np.flatnonzero(logits >= float(logits.max()) - self.n * sigma)
        if len(keep) < len(logits):
            candidates.ids, candidates.logits = candidates.ids[keep], logits[keep]

    def accept(self, token: int) -> None:
        """Nothing to remember."""


@hookimpl
def register_samplers(register: Register) -> None:
    """Offer the sampler under its name."""
    register("top_n_sigma", TopNSigma)
