"""Quadratic smoothing: lower each logit by the square of its distance to the best one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"


class Smooth:
    """Computes ``logit' = best - factor * (best - logit)²``, which keeps the order of the candidates."""

    options: ClassVar[JsonSchema] = {
        "smoothing_factor": {
            "type": "number",
            "minimum": 0,
            "maximum": 100,
            "default": 0,
            "description": "Strength of quadratic smoothing; 0: off.",
        }
    }
    truncates: ClassVar[bool] = False

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if the options turn it off."""
        return cls(options["smoothing_factor"]) if options["smoothing_factor"] else None

    def apply(self, candidates: Candidates) -> None:
        """Smooth the logits in place."""
        best = candidates.logits.max()
        candidates.logits = best - self.factor * (best - candidates.logits) ** 2

    def accept(self, token: int) -> None:
        """Do nothing: the sampler has no state."""


@hookimpl
def register_samplers(register: Register) -> None:
    """Register the sampler ``smooth``."""
    register("smooth", Smooth)
