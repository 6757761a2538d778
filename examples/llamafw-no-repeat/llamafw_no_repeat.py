"""Forbid every token that would complete a sequence of n tokens that has occurred before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"


class NoRepeat:
    """Forbids tokens that have followed the last n - 1 tokens before, in the prompt or in the response.

    If this would forbid all candidates, the likeliest one is kept. Paulus et al.: A Deep Reinforced Model for
    Abstractive Summarization (2017), §2.5; ``no_repeat_ngram_size`` of transformers.

    Parameters
    ----------
    n : int
        Length of the sequences, at least 1.
    prompt : sequence of int
        The tokens of the prompt.
    """

    options: ClassVar[JsonSchema] = {
        "no_repeat_ngram_size": {
            "type": "integer",
            "minimum": 0,
            "maximum": 1000,
            "default": 0,
            "description": "Never write the same sequence of this many tokens twice; 0: off.",
        }
    }
    truncates: ClassVar[bool] = False  # it may remove the likeliest token, so it also matters at temperature 0
    precedes: ClassVar[str] = "top_k"

    def __init__(self, n: int, prompt: Sequence[int] = ()) -> None:
        self.n = n
        self.last: tuple[int, ...] = ()  # the last n - 1 tokens
        self.followers: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for token in prompt:
            self.accept(token)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if the options turn it off."""
        n = options["no_repeat_ngram_size"]
        return cls(n, context.prompt) if n else None

    def apply(self, candidates: Candidates) -> None:
        """Forbid the tokens that followed the same tokens before."""
        forbidden = self.followers.get(self.last)
        if not forbidden:
            return
        where, _ = candidates.find(np.array(sorted(forbidden), np.int32))
        logits = candidates.logits.copy()
        logits[where] = -np.inf
        if logits.max() == -np.inf:
            best = candidates.logits.argmax()
            logits[best] = candidates.logits[best]
        candidates.logits, candidates.sorted = logits, False

    def accept(self, token: int) -> None:
        """Remember which token followed the last ones."""
        if len(self.last) == self.n - 1:
            self.followers[self.last].add(token)
        self.last = (*self.last, token)[1 - self.n :] if self.n > 1 else ()


@hookimpl
def register_samplers(register: Register) -> None:
    """Register the sampler ``no_repeat``."""
    register("no_repeat", NoRepeat)
