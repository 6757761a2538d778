"""XTC, "exclude top choices": now and then, all good tokens go but the least likely of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"
_SALT = 0x787463  # a stream of random numbers apart from those that tokens are drawn with


class Xtc:
    """With a given chance, of the tokens at least as likely as the threshold drop all but the least likely.

    Nothing happens where fewer than two are that likely. After the definition by its author, Philipp Emanuel Weidmann:
    https://github.com/oobabooga/text-generation-webui/pull/6335.
    """

    options: ClassVar[JsonSchema] = {
        "xtc_probability": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0,
            "description": "How often the likeliest tokens are dropped; 0: never.",
        },
        "xtc_threshold": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": 0.1,
            "description": "Tokens at least as likely as this are dropped, but for one; above 0.5: none.",
        },
    }
    truncates: ClassVar[bool] = False  # what it removes is likely: at temperature 0 another token is the likeliest
    precedes: ClassVar[str] = "temperature"

    def __init__(self, probability: float, threshold: float, *, min_keep: int = 0, seed: int = 0) -> None:
        self.probability, self.threshold, self.min_keep = probability, threshold, min_keep
        self.random = np.random.default_rng((seed, _SALT))
        self.active = self._draw()  # for a token, however often it must be drawn because a grammar refuses it

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if it is off."""
        probability, threshold = options["xtc_probability"], options["xtc_threshold"]
        if probability <= 0 or threshold > 0.5:  # there are no two tokens with more than half of the probability each
            return None
        return cls(probability, threshold, min_keep=context.min_keep, seed=context.seed)

    def apply(self, candidates: Candidates) -> None:
        """Drop the top choices, if it is their turn."""
        if not self.active:
            return
        logits = candidates.logits
        weights = np.exp(logits.astype(np.float64) - float(logits.max()))
        top = np.flatnonzero((weights >= self.threshold * weights.sum()) & (weights > 0))  # 0: it is forbidden
        if len(top) < 2:
            return
        last = logits[top].min()
        stays = top[np.flatnonzero(logits[top] == last)[-1]]  # of equals the one that comes last
        if len(logits) - len(top) + 1 < self.min_keep:
            return
        keep = np.ones(len(logits), np.bool_)
        keep[top] = False
        keep[stays] = True
        candidates.ids, candidates.logits = candidates.ids[keep], logits[keep]

    def accept(self, token: int) -> None:
        """Decide about the next token."""
        self.active = self._draw()

    def _draw(self) -> bool:
        return bool(self.random.random() < self.probability)


@hookimpl
def register_samplers(register: Register) -> None:
    """Offer the sampler under its name."""
    register("xtc", Xtc)
