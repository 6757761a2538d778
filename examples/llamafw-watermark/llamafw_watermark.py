"""A watermark: favour a pseudo-random half of the vocabulary, so that a key can tell generated text from other text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llamafw import Candidates, JsonSchema, Register, Sampler, SamplerContext, hookimpl

requires_api = ">=1.0,<2"


class Watermark:
    """Adds a number to the logits of the green tokens; the key and the token before decide which tokens are green.

    Kirchenbauer et al.: A Watermark for Large Language Models (2023), algorithm 2, with half of the tokens green.

    Parameters
    ----------
    delta : float
        The number that is added.
    key : str
        Decides, with the last token, which tokens are green.
    n_vocab : int
        Size of the vocabulary.
    last : int
        The last token of the prompt.
    """

    options: ClassVar[JsonSchema] = {
        "watermark_delta": {
            "type": "number",
            "minimum": 0,
            "maximum": 100,
            "default": 0,
            "description": "Added to the logits of a pseudo-random half of the tokens, such as 2; 0: no watermark.",
        },
        "watermark_key": {
            "type": "string",
            "maxLength": 100,
            "default": "",
            "description": "Decides which tokens the watermark favours; needed to detect it.",
        },
    }
    truncates: ClassVar[bool] = False
    precedes: ClassVar[str] = "top_k"

    def __init__(self, delta: float, key: str, n_vocab: int, last: int = 0) -> None:
        self.delta, self.key, self.n_vocab = delta, key, n_vocab
        self.green = green_tokens(key, last, n_vocab)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if the options turn it off."""
        if not options["watermark_delta"]:
            return None
        last = context.prompt[-1] if context.prompt else 0
        return cls(options["watermark_delta"], options["watermark_key"], context.n_vocab, last)

    def apply(self, candidates: Candidates) -> None:
        """Make the green tokens likelier."""
        candidates.logits = np.where(self.green[candidates.ids], candidates.logits + self.delta, candidates.logits)
        candidates.logits = candidates.logits.astype(np.float32)
        candidates.sorted = False

    def accept(self, token: int) -> None:
        """Choose the green tokens that may follow this one."""
        self.green = green_tokens(self.key, token, self.n_vocab)


def green_tokens(key: str, last: int, n_vocab: int) -> npt.NDArray[np.bool_]:
    """Return for each token whether it is green after the token ``last``."""
    seed = sha256(f"{key}:{last}".encode()).digest()
    bits = np.random.default_rng(int.from_bytes(seed)).bytes((n_vocab + 7) // 8)
    return np.unpackbits(np.frombuffer(bits, np.uint8))[:n_vocab].astype(np.bool_)


def z_score(tokens: Sequence[int], key: str, n_vocab: int) -> float:
    """Return how many standard deviations the number of green tokens is above that of a text without watermark.

    Each pair of tokens counts once, because repeated passages prove nothing.
    """
    pairs = set(zip(tokens, tokens[1:], strict=False))
    if not pairs:
        return 0.0
    n_green = sum(bool(green_tokens(key, last, n_vocab)[token]) for last, token in pairs)
    return (n_green - len(pairs) / 2) / sqrt(len(pairs) / 4)


@hookimpl
def register_samplers(register: Register) -> None:
    """Register the sampler ``watermark``."""
    register("watermark", Watermark)
