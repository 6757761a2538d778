"""Drop tokens that are much less likely than the likeliest."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, ClassVar

from llamafw import JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.compiled import Compiled


class MinP:
    """Keep candidates at least p times as likely as the likeliest: logit ≥ max + ln p. Their order stays.

    Nguyen et al.: Turning Up the Heat: Min-p Sampling (2024), §3.
    """

    options: ClassVar[JsonSchema] = {
        "min_p": {
            "type": "number",
            "default": 0.05,
            "minimum": 0,
            "maximum": 1,
            "description": "Drop tokens less likely than P times the likeliest; 0: none.",
        }
    }
    truncates: ClassVar[bool] = True

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        p = float(options["min_p"])
        if p <= 0:
            return None
        from llamafw_plugins.samplers import kernels  # with numba

        return Compiled(kernels.min_p, log(min(p, 1.0)), context.min_keep)
