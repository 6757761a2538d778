"""Quadratic smoothing: logits fall off with the square of their distance to the best one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"


class Smooth:
    """logit' = best - factor * (best - logit)²; the order of the candidates stays as it is."""

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
        """Return the sampler, or None if it is off."""
        return cls(options["smoothing_factor"]) if options["smoothing_factor"] else None

    def apply(self, candidates: Candidates) -> None:
        """Smooth the logits in place."""
        best = candidates.logits.max()
        candidates.logits = best - self.factor * (best - candidates.logits) ** 2

    def accept(self, token: int) -> None:
        """Nothing to remember."""


@hookimpl
def register_samplers(register: Register) -> None:
    """Offer the sampler under its name."""
    register("smooth", Smooth)
