"""XTC ("exclude top choices"): randomly remove the likeliest tokens except the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"
_SALT = 0x787463  # separates this random stream from the one that draws tokens


class Xtc:
    """Removes all tokens above the threshold except the least likely of them, with a given probability.

    If fewer than two tokens reach the threshold, nothing is removed. Defined by Philipp Emanuel Weidmann:
    https://github.com/oobabooga/text-generation-webui/pull/6335.
    """

    options: ClassVar[JsonSchema] = {
        "xtc_probability": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0,
            "description": "Probability, for each token, that the likeliest candidates are removed; 0: off.",
        },
        "xtc_threshold": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0.1,
            "description": "Candidates of at least this probability, except the last, are removed; above 0.5: off.",
        },
    }
    truncates: ClassVar[bool] = False  # it may remove the likeliest token, so it also matters at temperature 0
    precedes: ClassVar[str] = "temperature"

    def __init__(self, probability: float, threshold: float, *, min_keep: int = 0, seed: int = 0) -> None:
        self.probability, self.threshold, self.min_keep = probability, threshold, min_keep
        self.random = np.random.default_rng((seed, _SALT))
        self.active = self._draw()  # stays the same when a grammar refuses a token and another one is drawn

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if the options turn it off."""
        probability, threshold = options["xtc_probability"], options["xtc_threshold"]
        if probability <= 0 or threshold > 0.5:  # at most one token can have more than half of the probability
            return None
        return cls(probability, threshold, min_keep=context.min_keep, seed=context.seed)

    def apply(self, candidates: Candidates) -> None:
        """Remove the top choices if the draw for this token was positive."""
        if not self.active:
            return

        logits = candidates.logits
        weights = np.exp(logits.astype(np.float64) - float(logits.max()))
        top = np.flatnonzero((weights >= self.threshold * weights.sum()) & (weights > 0))  # 0: forbidden tokens
        if len(top) < 2 or len(logits) - len(top) + 1 < self.min_keep:
            return

        lowest = logits[top].min()
        kept = top[np.flatnonzero(logits[top] == lowest)[-1]]  # the last one, if several are equal
        keep = np.ones(len(logits), np.bool_)
        keep[top] = False
        keep[kept] = True
        candidates.ids, candidates.logits = candidates.ids[keep], logits[keep]

    def accept(self, token: int) -> None:
        """Draw whether to remove candidates for the next token."""
        self.active = self._draw()

    def _draw(self) -> bool:
        """Return true with the sampler's probability."""
        return bool(self.random.random() < self.probability)


@hookimpl
def register_samplers(register: Register) -> None:
    """Register the sampler ``xtc``."""
    register("xtc", Xtc)
