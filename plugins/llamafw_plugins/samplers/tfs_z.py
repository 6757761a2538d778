"""Tail-free sampling: remove the tail, which begins where the curve of probabilities becomes straight."""

from __future__ import annotations

from typing import ClassVar

from llamafw import JsonSchema
from llamafw_plugins.samplers.kernel_sampler import CumulativeSampler


class TfsZ(CumulativeSampler):
    """Keeps the likeliest candidates until the absolute second derivatives add up to more than Z.

    The derivatives are differences of neighbouring probabilities in descending order; their absolute values are divided
    by their sum. Phénix and Egan: Tail Free Sampling (2019), https://trentbrick.github.io/Tail-Free-Sampling.
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
    option = kernel = "tfs_z"
