"""Flatten or sharpen the distribution; at zero the likeliest token wins."""
from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext

_LEAST = 1e-30  # keeps quotients within float32, and is as good as zero


class Temperature:
    """Divide the scores by T, taken relative to the highest, so that no quotient leaves float32."""

    options: ClassVar[JsonSchema] = {
        "temperature": {
            "type": "number",
            "default": 0.8,
            "minimum": -1000,
            "maximum": 1000,
            "description": "Randomness of the choice; 0 or less: always the likeliest token.",
        },
        "dynatemp_range": {
            "type": "number",
            "default": 0.0,
            "minimum": 0,
            "maximum": 1000,
            "description": "Dynamic temperature: from T - X to T + X, higher when the model is undecided; 0: off.",
        },
        "dynatemp_exponent": {
            "type": "number",
            "default": 1.0,
            "minimum": 0,
            "maximum": 1000,
            "description": "Dynamic temperature: exponent of the normalised entropy.",
        },
    }
    truncates: ClassVar[bool] = False

    def __init__(self, temperature: float) -> None:
        self._temperature = max(temperature, _LEAST)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        temperature, spread = float(options["temperature"]), float(options["dynatemp_range"])
        if temperature <= 0:
            return Greedy()
        if spread > 0:
            low, high = max(0.0, temperature - spread), temperature + spread
            return DynamicTemperature(low, high, float(options["dynatemp_exponent"]))
        return cls(temperature) if temperature != 1 else None

    def apply(self, candidates: Candidates) -> None:
        _divide(candidates, self._temperature)

    def accept(self, token: int) -> None:
        """Remember nothing."""


class DynamicTemperature:
    """T = low + (high - low) · (H / ln n)^exponent, H being the entropy of the n candidates, ln n its maximum.

    A single candidate is left as it is. Formula: llama.cpp, ``llama_sampler_temp_ext``.
    """

    def __init__(self, low: float, high: float, exponent: float) -> None:
        self._low, self._high, self._exponent = low, high, exponent

    def apply(self, candidates: Candidates) -> None:
        n = len(candidates.ids)
        if n < 2:
            return
        shifted = candidates.logits - candidates.logits.max()
        weights = np.exp(shifted)
        total = float(weights.sum(dtype=np.float64))
        entropy = log(total) - float(np.sum(weights * np.where(weights > 0, shifted, 0), dtype=np.float64)) / total
        share = min(max(entropy / log(n), 0.0), 1.0)
        _divide(candidates, max(self._low + (self._high - self._low) * share**self._exponent, _LEAST))

    def accept(self, token: int) -> None:
        """Remember nothing."""


class Greedy:
    """Keep the likeliest candidate; of equals the lowest token."""

    def apply(self, candidates: Candidates) -> None:
        ids, logits = candidates.ids, candidates.logits
        equals = np.flatnonzero(logits == logits.max())
        best = equals[ids[equals].argmin()]
        candidates.ids, candidates.logits, candidates.sorted = ids[best : best + 1], logits[best : best + 1], True

    def accept(self, token: int) -> None:
        """Remember nothing."""


def _divide(candidates: Candidates, temperature: float) -> None:
    logits = candidates.logits
    logits -= logits[0] if candidates.sorted else logits.max()
    with np.errstate(over="ignore"):  # what falls below float32 is -inf, as it should be
        logits /= temperature
