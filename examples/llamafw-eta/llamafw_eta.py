"""Eta sampling: remove tokens below a probability that depends on how uncertain the model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"


class Eta:
    """Removes candidates with a probability below ``min(ε, √ε · e^-H)``, where H is the entropy in nats.

    The likeliest ``min_keep`` candidates, and at least one, are kept. Hewitt et al.: Truncation Sampling as Language
    Model Desmoothing (2022), §3.2.
    """

    options: ClassVar[JsonSchema] = {
        "eta_cutoff": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0,
            "description": "Epsilon of eta sampling, such as 0.0006; 0: off.",
        }
    }
    truncates: ClassVar[bool] = True
    precedes: ClassVar[str] = "top_p"

    def __init__(self, epsilon: float, *, min_keep: int = 0) -> None:
        self.epsilon, self.min_keep = epsilon, max(min_keep, 1)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if the options turn it off."""
        return cls(options["eta_cutoff"], min_keep=context.min_keep) if options["eta_cutoff"] else None

    def apply(self, candidates: Candidates) -> None:
        """Remove unlikely candidates."""
        logits = candidates.logits.astype(np.float64)
        log_p = logits - logits.max()
        log_p -= np.log(np.exp(log_p).sum())
        possible = log_p[log_p > -np.inf]
        entropy = -float((np.exp(possible) * possible).sum())

        log_epsilon = float(np.log(self.epsilon))
        n_keep = min(self.min_keep, len(log_p))
        limit = min(log_epsilon, log_epsilon / 2 - entropy, float(np.sort(log_p)[-n_keep]))
        keep = log_p >= limit
        candidates.ids, candidates.logits = candidates.ids[keep], candidates.logits[keep]

    def accept(self, token: int) -> None:
        """Do nothing: the sampler has no state."""


@hookimpl
def register_samplers(register: Register) -> None:
    """Register the sampler ``eta``."""
    register("eta", Eta)
