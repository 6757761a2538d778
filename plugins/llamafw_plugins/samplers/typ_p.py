"""Locally typical sampling: keep the tokens whose surprise is closest to what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import JsonSchema, Sampler, SamplerContext
from llamafw_plugins.samplers.compiled import Compiled


class TypP:
    """Keep the candidates with the least abs(-ln p - H), H being the entropy, until they have more than probability P.

    The order of what is kept stays. Meister et al.: Locally Typical Sampling (2023), §4.
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
    truncates: ClassVar[bool] = True

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        p = float(options["typical_p"])
        if p >= 1:
            return None
        from llamafw_plugins.samplers import kernels  # with numba

        return Compiled(kernels.typ_p, p, max(context.min_keep, 1))
