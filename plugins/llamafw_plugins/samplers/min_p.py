"""Remove tokens that are much less likely than the likeliest."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, ClassVar

from llamafw import JsonSchema, SamplerContext
from llamafw_plugins.samplers.kernel_sampler import KernelCall, KernelSamplerPlugin


class MinP(KernelSamplerPlugin):
    """Keeps the candidates that are at least p times as likely as the likeliest: logit ≥ max + ln p.

    The order of the candidates does not change. Nguyen et al.: Turning Up the Heat: Min-p Sampling (2024), §3.
    """

    options: ClassVar[JsonSchema] = {
        "min_p": {
            "type": "number",
            "default": 0.05,
            "minimum": 0,
            "maximum": 1,
            "description": "Remove tokens that are less likely than P times the likeliest; 0: off.",
        }
    }

    @classmethod
    def kernel_call(cls, options: Mapping[str, Any], context: SamplerContext) -> KernelCall | None:
        """Return the kernel with ln p and the minimum number of candidates."""
        p = float(options["min_p"])
        return KernelCall("min_p", (log(min(p, 1.0)), context.min_keep)) if p > 0 else None
