"""Locally typical sampling: keep the tokens whose surprise is closest to what is expected."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.nucleus import nucleus


class TypP:
    """Keep the candidates with the least abs(-ln p - H), H being the entropy, until they have more than probability P.

    The order of what is kept stays. Meister et al.: Locally Typical Sampling (2023), §4.
    """

    options: ClassVar[JsonSchema] = {
        "typical_p": {
            "type": "number",
            "default": 1.0,
            "minimum": 0,
            "maximum": 1,
            "description": "Locally typical sampling with probability P; 1: off.",
        }
    }
    truncates: ClassVar[bool] = True

    def __init__(self, p: float, min_keep: int) -> None:
        self._p, self._min_keep = p, min_keep

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        p = float(options["typical_p"])
        return cls(p, max(context.min_keep, 1)) if p < 1 else None

    def apply(self, candidates: Candidates) -> None:
        shifted = candidates.logits - candidates.logits.max()
        weights = np.exp(shifted)
        total = float(weights.sum(dtype=np.float64))
        # With ln p = shifted - ln total: H = -Σ p ln p = ln total - Σ weights · shifted / total, so that
        # -ln p - H = Σ weights · shifted / total - shifted. What is forbidden has weight 0 and shift -inf.
        mean = float(np.sum(weights * np.where(weights > 0, shifted, 0), dtype=np.float64)) / total
        keep = np.sort(nucleus(-np.abs(shifted - mean), weights, self._p, self._min_keep, strict=True))
        candidates.ids, candidates.logits = candidates.ids[keep], candidates.logits[keep]

    def accept(self, token: int) -> None:
        """Remember nothing."""
