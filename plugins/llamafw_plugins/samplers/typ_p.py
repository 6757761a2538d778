"""Locally typical sampling: keep the tokens whose surprise is closest to the expected surprise."""

from __future__ import annotations

from typing import ClassVar

from llamafw import JsonSchema
from llamafw_plugins.samplers.kernel_sampler import CumulativeSampler


class TypP(CumulativeSampler):
    """Keeps the candidates with the smallest abs(-ln p - H) until together they have more than probability P.

    H is the entropy. The order of the remaining candidates does not change.
    Meister et al.: Locally Typical Sampling (2023), §4.
    """

    options: ClassVar[JsonSchema] = {
        "typical_p": {
            "type": "number",
            "default": 1.0,
            "minimum": 0,
            "maximum": 1,
            "description": "Locally typical sampling with probability P; 1: off.",
        }
    }
    option, kernel = "typical_p", "typ_p"
