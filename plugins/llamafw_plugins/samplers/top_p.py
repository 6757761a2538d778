"""Nucleus sampling: keep the likeliest tokens that together have probability p."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.compiled import Compiled


class TopP:
    """Keep the smallest set of likeliest candidates whose probabilities add up to p, in descending order.

    Holtzman et al.: The Curious Case of Neural Text Degeneration (2020), §3.1.
    """

    options: ClassVar[JsonSchema] = {
        "top_p": {
            "type": "number",
            "default": 0.95,
            "minimum": 0,
            "maximum": 1,
            "description": "Keep the likeliest tokens that together have probability P; 1: all, 0: one.",
        }
    }
    truncates: ClassVar[bool] = True

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        p = float(options["top_p"])
        if p >= 1:
            return None
        from llamafw_plugins.samplers import kernels  # with numba

        return Compiled(kernels.top_p, p, max(context.min_keep, 1))
