"""Flatten or sharpen the distribution; at zero the likeliest token wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.compiled import Compiled

LEAST = 1e-30  # keeps quotients within float32, and is as good as zero


class Temperature:
    """Divide the scores by T, taken relative to the highest, so that no quotient leaves float32.

    With ``dynatemp_range``: T = low + (high - low) · (H / ln n)^exponent, H being the entropy of the n candidates, ln n
    its maximum; a single candidate is left as it is. Formula: llama.cpp, ``llama_sampler_temp_ext``. At T ≤ 0 the
    likeliest candidate is kept; of equals the lowest token.
    """

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

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        from llamafw_plugins.samplers import kernels  # with numba

        temperature, spread = float(options["temperature"]), float(options["dynatemp_range"])
        if temperature <= 0:
            return Compiled(kernels.greedy)
        if spread > 0:
            low, high, exponent = max(0.0, temperature - spread), temperature + spread, options["dynatemp_exponent"]
            return Compiled(kernels.dynamic_temperature, low, high, exponent, LEAST)
        return Compiled(kernels.temperature, max(temperature, LEAST)) if temperature != 1 else None
