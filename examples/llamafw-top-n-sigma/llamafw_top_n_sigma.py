"""Top-nσ sampling: keep the tokens whose logits are within n standard deviations of the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"


class TopNSigma:
    """Keeps tokens with ``logit ≥ max - n·σ``, where σ is the standard deviation of all logits.

    Forbidden tokens, with a logit of -inf, are left out of σ. A temperature before or after the sampler does not change
    which tokens it keeps. From Tang et al.: Top-nσ: Not All Logits Are You Need (2024), §3.
    """

    options: ClassVar[JsonSchema] = {
        "top_n_sigma": {
            "type": "number",
            "minimum": -1,
            "maximum": 1000,
            "default": -1,
            "description": "Keep only tokens within this many standard deviations of the best logit; 0 or less: off.",
        }
    }
    truncates: ClassVar[bool] = True
    precedes: ClassVar[str] = "top_k"

    def __init__(self, n: float) -> None:
        self.n = n

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if the options turn it off."""
        return cls(options["top_n_sigma"]) if options["top_n_sigma"] > 0 else None

    def apply(self, candidates: Candidates) -> None:
        """Remove tokens too far below the best one, which always stays."""
        logits = candidates.logits
        possible = logits[logits > -np.inf]
        sigma = float(possible.std(dtype=np.float64))
        keep = np.flatnonzero(logits >= float(logits.max()) - self.n * sigma)
        if len(keep) < len(logits):
            candidates.ids, candidates.logits = candidates.ids[keep], logits[keep]

    def accept(self, token: int) -> None:
        """Do nothing: the sampler has no state."""


@hookimpl
def register_samplers(register: Register) -> None:
    """Register the sampler ``top_n_sigma``."""
    register("top_n_sigma", TopNSigma)
