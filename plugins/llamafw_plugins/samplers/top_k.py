"""Keep the k likeliest tokens."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext, largest


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

    def __init__(self, k: int) -> None:
        self._k = k

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        k = int(options["top_k"])
        return cls(k) if 0 < k < context.n_vocab else None

    def apply(self, candidates: Candidates) -> None:
        if candidates.sorted:
            candidates.ids, candidates.logits = candidates.ids[: self._k], candidates.logits[: self._k]
        elif self._k < len(candidates.ids):
            best = largest(candidates.logits, self._k)
            candidates.ids, candidates.logits, candidates.sorted = candidates.ids[best], candidates.logits[best], True

    def accept(self, token: int) -> None:
        """Remember nothing."""
