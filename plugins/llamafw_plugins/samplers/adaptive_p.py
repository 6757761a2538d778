"""Adaptive-p: prefer tokens near a target probability, which adapts to the tokens that were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llamafw import Candidates, Ints, JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.temperature import Temperature

_WIDTH, _PEAK, _SHARPNESS = 0.3, 5.0, 10.0  # of the new logits as a function of the probability


class AdaptiveP:
    """Gives candidates logits that are highest at the target probability: 5 - 10·d² / (1 + d), d = |p - t| / 0.3.

    The target t is what brings the weighted mean probability of the drawn tokens back to ``adaptive_target``: twice the
    target minus the mean, between 0 and 1. The weights of earlier tokens decay exponentially. Probabilities are those
    of the candidates that the samplers before have left; forbidden candidates stay forbidden. Designed for the end of
    the chain, after a sampler such as ``min_p``, because it raises the unlikely tokens that are left.

    Defined in https://github.com/ggml-org/llama.cpp/pull/17927

    Parameters
    ----------
    target : float
        Target probability, from 0 to 1.
    decay : float
        Factor by which the weight of a token decays with each further token, at least 0 and less than 1.
    """

    options: ClassVar[JsonSchema] = {
        "adaptive_target": {
            "type": "number",
            "default": -1.0,
            "minimum": -1,
            "maximum": 1,
            "description": "Adaptive-p prefers tokens near this probability; negative: off.",
        },
        "adaptive_decay": {
            "type": "number",
            "default": 0.9,
            "minimum": 0,
            "maximum": 0.99,
            "description": "How slowly adaptive-p reacts: it considers about 1 / (1 - X) tokens.",
        },
        "temperature": Temperature.options["temperature"],
    }
    truncates: ClassVar[bool] = False

    def __init__(self, target: float, decay: float) -> None:
        self._target, self._decay = target, decay
        self._total_weight = 1 / (1 - decay)  # as if all earlier tokens had had the target probability
        self._weighted_sum = target * self._total_weight
        self._ids: Ints = np.empty(0, np.int32)
        self._p: npt.NDArray[np.float64] = np.empty(0)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request, or None if the target is negative or the likeliest token is drawn."""
        target = float(options["adaptive_target"])
        if target < 0 or options["temperature"] <= 0:
            return None
        return cls(target, float(options["adaptive_decay"]))

    def apply(self, candidates: Candidates) -> None:
        """Replace the logits of all candidates that are not forbidden."""
        logits = candidates.logits.astype(np.float64)
        weights = np.exp(logits - logits.max())
        p = weights / weights.sum()

        target = min(max(2 * self._target - self._weighted_sum / self._total_weight, 0.0), 1.0)
        distance = np.abs(p - target) / _WIDTH
        new = _PEAK - _SHARPNESS * distance * distance / (1 + distance)
        candidates.logits = np.where(logits == -np.inf, logits, new).astype(np.float32)
        candidates.sorted = False
        self._ids, self._p = candidates.ids.copy(), p  # samplers after this one may write into the ids

    def accept(self, token: int) -> None:
        """Add the probability that the token had before `apply` to the weighted mean."""
        i = np.flatnonzero(self._ids == token)
        if len(i):
            self._weighted_sum = float(self._p[i[0]]) + self._decay * self._weighted_sum
            self._total_weight = 1 + self._decay * self._total_weight
