"""Flatten or sharpen the distribution; at 0 only the likeliest token remains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, SamplerContext
from llamafw_plugins.samplers.kernel_sampler import KernelCall, KernelSamplerPlugin

MIN_TEMPERATURE = 1e-30  # has the effect of zero, and keeps quotients within float32


class Temperature(KernelSamplerPlugin):
    """Divides the logits by T, relative to the highest, so that quotients cannot overflow float32.

    With ``dynatemp_range``: T = low + (high - low) · (H / ln n)^exponent, where H is the entropy of the n candidates
    and ln n its maximum; a single candidate is not changed. Formula: llama.cpp, ``llama_sampler_temp_ext``. At T ≤ 0
    only the likeliest candidate is kept; of equally likely ones, the one with the lowest id.
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
            "description": "Dynamic temperature: from T - X to T + X, higher when the model is uncertain; 0: off.",
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
    def kernel_call(cls, options: Mapping[str, Any], context: SamplerContext) -> KernelCall | None:
        """Return the kernel for greedy, dynamic or fixed temperature; None at 1."""
        temperature, spread = float(options["temperature"]), float(options["dynatemp_range"])

        if temperature <= 0:
            return KernelCall("greedy", n_top=1)
        if spread > 0:
            low, high, exponent = max(0.0, temperature - spread), temperature + spread, options["dynatemp_exponent"]
            return KernelCall("dynamic_temperature", (low, high, exponent, MIN_TEMPERATURE))
        if temperature == 1:
            return None
        return KernelCall("temperature", (max(temperature, MIN_TEMPERATURE),))
