"""Tail-free sampling: drop the tail, which begins where the probabilities stop to bend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.compiled import Compiled


class TfsZ:
    """Keep the likeliest candidates up to where the sizes of the second derivative sum up to more than Z.

    The derivatives are differences of neighbouring probabilities, in descending order; their sizes are divided by their
    sum. Phénix and Egan: Tail Free Sampling (2019), https://trentbrick.github.io/Tail-Free-Sampling.
    """

    options: ClassVar[JsonSchema] = {
        "tfs_z": {
            "type": "number",
            "default": 1.0,
            "minimum": 0,
            "maximum": 1,
            "description": "Tail-free sampling with parameter Z; 1: off.",
        }
    }
    truncates: ClassVar[bool] = True

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        z = float(options["tfs_z"])
        if z >= 1:
            return None
        from llamafw_plugins.samplers import kernels  # with numba

        return Compiled(kernels.tfs_z, z, max(context.min_keep, 1))
