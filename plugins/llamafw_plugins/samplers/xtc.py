"""XTC ("exclude top choices"): remove the likeliest tokens at random, all but the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext, SamplerKernel

_SALT = 0x787463  # separates these random numbers from those that draw tokens


class Xtc:
    """Removes all candidates of at least a threshold's probability but the least likely of them, at random.

    Nothing is removed if fewer than two candidates reach the threshold, or if fewer than ``min_keep`` would remain.
    Defined by Philipp Emanuel Weidmann: https://github.com/oobabooga/text-generation-webui/pull/6335

    Parameters
    ----------
    probability : float
        Probability of the removal, for each token.
    threshold : float
        The smallest probability of a top choice.
    min_keep : int
        Minimum number of candidates to leave.
    seed : int
        Seed of the random numbers.
    """

    options: ClassVar[JsonSchema] = {
        "xtc_probability": {
            "type": "number",
            "default": 0.0,
            "minimum": 0,
            "maximum": 1,
            "description": "Probability, for each token, that XTC removes the likeliest candidates; 0: off.",
        },
        "xtc_threshold": {
            "type": "number",
            "default": 0.1,
            "minimum": 0,
            "maximum": 1,
            "description": "XTC removes candidates of at least this probability but the last; above 0.5: off.",
        },
    }
    truncates: ClassVar[bool] = False  # it may remove the likeliest token, so it also matters at temperature 0

    def __init__(self, probability: float, threshold: float, *, min_keep: int = 0, seed: int = 0) -> None:
        from llamafw_plugins.samplers import kernels  # here, because it imports numba

        self._probability, self._random = probability, np.random.default_rng((seed, _SALT))
        self.kernel = SamplerKernel(kernels.xtc, np.array([0, threshold, min_keep], np.float64))
        self._draw()

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request, or None if it would change nothing."""
        probability, threshold = float(options["xtc_probability"]), float(options["xtc_threshold"])
        if probability <= 0 or threshold > 0.5:  # at most one token can have more than half of the probability
            return None
        return cls(probability, threshold, min_keep=context.min_keep, seed=context.seed)

    def apply(self, candidates: Candidates) -> None:
        """Run the kernel."""
        self.kernel.apply(candidates)

    def accept(self, token: int) -> None:
        """Decide whether to remove candidates for the next token.

        The decision stays the same until then, also if a grammar refuses a token and another one is drawn.
        """
        self._draw()

    def _draw(self) -> None:
        self.kernel.options[0] = self._random.random() < self._probability
