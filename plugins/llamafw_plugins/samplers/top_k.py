"""Keep the k likeliest tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, SamplerContext
from llamafw_plugins.samplers.kernel_sampler import KernelCall, KernelSamplerPlugin


class TopK(KernelSamplerPlugin):
    """Keeps the k candidates with the highest logits, in descending order; equal logits keep their order.

    Fan, Lewis, Dauphin: Hierarchical Neural Story Generation (2018), §5.1.
    """

    options: ClassVar[JsonSchema] = {
        "top_k": {
            "type": "integer",
            "default": 40,
            "minimum": -(2**31),
            "maximum": 2**31 - 1,
            "description": "Keep the K likeliest tokens; 0 or less: all.",
        }
    }

    @classmethod
    def kernel_call(cls, options: Mapping[str, Any], context: SamplerContext) -> KernelCall | None:
        """Return the kernel with k; None if k covers the vocabulary."""
        k = int(options["top_k"])
        return KernelCall("top_k", (k,), n_top=k) if 0 < k < context.n_vocab else None
