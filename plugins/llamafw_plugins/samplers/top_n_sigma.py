"""Remove tokens whose logits are too many standard deviations below the highest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, SamplerContext
from llamafw_plugins.samplers.kernel_sampler import KernelCall, KernelSamplerPlugin


class TopNSigma(KernelSamplerPlugin):
    """Keeps the candidates with logit ≥ max - n·σ, where σ is the standard deviation of the candidates' logits.

    Forbidden candidates are left out of σ and are removed. A temperature, before or after, does not change which
    candidates remain. Tang et al.: Top-nσ: Not All Logits Are You Need (2024), §3.
    """

    options: ClassVar[JsonSchema] = {
        "top_n_sigma": {
            "type": "number",
            "default": -1.0,
            "minimum": -1,
            "maximum": 1000,
            "description": "Keep tokens within N standard deviations of the highest logit; 0 or less: off.",
        }
    }

    @classmethod
    def kernel_call(cls, options: Mapping[str, Any], context: SamplerContext) -> KernelCall | None:
        """Return the kernel with n."""
        n = float(options["top_n_sigma"])
        return KernelCall("top_n_sigma", (n,)) if n > 0 else None
