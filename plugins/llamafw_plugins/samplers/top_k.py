"""Keep the k likeliest tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.compiled import Compiled


class TopK:
    """Keep the k candidates with the highest scores, in descending order; of equals the one that came first.

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
    truncates: ClassVar[bool] = True

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        k = int(options["top_k"])
        if not 0 < k < context.n_vocab:
            return None
        from llamafw_plugins.samplers import kernels  # with numba

        return Compiled(kernels.top_k, k)
