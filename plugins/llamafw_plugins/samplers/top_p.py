"""Nucleus sampling: keep the likeliest tokens that together have probability p."""

from __future__ import annotations

from typing import ClassVar

from llamafw import JsonSchema
from llamafw_plugins.samplers.kernel_sampler import CumulativeSampler


class TopP(CumulativeSampler):
    """Keeps the smallest set of likeliest candidates whose probabilities add up to p, in descending order.

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
    option = kernel = "top_p"
