"""DRY ("don't repeat yourself"): penalise tokens that would continue a repeated passage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, Ints, JsonSchema, Register, Sampler, SamplerContext, Tokenizer, hookimpl

requires_api = ">=1.0,<2"
_MAX_PENALTY = 1e30  # larger than any logit, and representable in float32


class Dry:
    """Penalises tokens that would continue a repeated passage.

    The penalty is ``multiplier · base ** (n - allowed_length)`` for tokens with ``n ≥ allowed_length``, where n is the
    length of the longest passage at the end of the text that occurred before, followed by this token. Passages end at
    sequence breakers, and tokens that contain one are not penalised. Breakers are searched in the text, so they may be
    several tokens. Defined by Philipp Emanuel Weidmann: https://github.com/oobabooga/text-generation-webui/pull/5677

    Parameters
    ----------
    prompt : sequence of int
        The prompt's tokens; the last ``last_n`` are searched.
    tokenizer : Tokenizer
        Gives the bytes of each token.
    multiplier : float
        The strength of the penalty.
    base : float
        The factor by which the penalty grows per token.
    allowed_length : int
        The shortest passage that is penalised, in tokens.
    last_n : int
        The number of tokens of prompt and response to search.
    breakers : sequence of bytes
        The sequence breakers, each at least one byte long.
    """

    options: ClassVar[JsonSchema] = {
        "dry_multiplier": {
            "type": "number",
            "minimum": 0,
            "maximum": 1000,
            "default": 0,
            "description": "Strength of the DRY penalty on repeated passages; 0: off.",
        },
        "dry_base": {
            "type": "number",
            "minimum": 1,
            "maximum": 1000,
            "default": 1.75,
            "description": "Factor by which the DRY penalty grows with each token of the repeated passage.",
        },
        "dry_allowed_length": {
            "type": "integer",
            "minimum": 1,
            "maximum": 2147483647,
            "default": 2,
            "description": "The shortest repeated passage that DRY penalises, in tokens.",
        },
        "dry_penalty_last_n": {
            "type": "integer",
            "minimum": -1,
            "maximum": 2147483647,
            "default": -1,
            "description": "Number of last tokens that DRY searches for repetitions; 0: off, -1: the whole context.",
        },
        "dry_sequence_breakers": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 40},
            "maxItems": 64,
            "default": ["\n", ":", '"', "*"],
            "description": "Texts that end a passage: DRY finds no repetitions across them.",
        },
    }
    truncates: ClassVar[bool] = False
    precedes: ClassVar[str] = "top_k"

    def __init__(
        self,
        prompt: Sequence[int],
        tokenizer: Tokenizer,
        *,
        multiplier: float,
        base: float = 1.75,
        allowed_length: int = 2,
        last_n: int,
        breakers: Sequence[bytes] = (),
    ) -> None:
        self.multiplier, self.base, self.allowed_length, self.last_n = multiplier, base, allowed_length, last_n
        self.tokenizer, self.breakers = tokenizer, breakers
        self.max_tail = max(map(len, breakers), default=1) - 1  # bytes of earlier tokens that may be part of a breaker

        window = list(prompt[-last_n:])
        texts = [self._text(token) for token in window]
        self.tail = b"".join(texts)
        self.n = n = len(window)
        self.tokens: Ints = np.zeros(n + 256, np.int32)  # (n,), and room for more
        # lengths[i]: the length of the longest passage that ends at token i and also at the end of the text
        self.lengths: Ints = np.zeros(n + 256, np.int32)
        self.tokens[:n] = window
        self.lengths[:n] = np.minimum(_common_suffixes(window), self._tokens_since_breaker(texts))
        self._shorten_tail()

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if the options turn it off."""
        last_n = options["dry_penalty_last_n"]
        if not options["dry_multiplier"] or not last_n:
            return None
        return cls(
            context.prompt,
            context.tokenizer,
            multiplier=options["dry_multiplier"],
            base=options["dry_base"],
            allowed_length=options["dry_allowed_length"],
            last_n=context.n_ctx if last_n < 0 else min(last_n, context.n_ctx),
            breakers=[text.encode() for text in options["dry_sequence_breakers"]],
        )

    def apply(self, candidates: Candidates) -> None:
        """Penalise tokens that would make a repeated passage longer."""
        first = max(self.n - self.last_n, 0)
        lengths = self.lengths[first : self.n - 1]
        limits = np.arange(1, len(lengths) + 1, dtype=np.int32)  # passages start within the window
        lengths = np.minimum(lengths, limits)

        positions = np.flatnonzero(lengths >= self.allowed_length)
        if not len(positions):
            return

        positions = positions[np.argsort(lengths[positions], kind="stable")]
        pairs = zip(self.tokens[first + positions + 1].tolist(), lengths[positions].tolist(), strict=True)
        longest = dict(pairs)  # the last length of a token wins, which is its longest
        longest = {token: n for token, n in longest.items() if not self._has_breaker(b"", self._text(token))}

        tokens, n = np.array(list(longest), np.int32), np.array(list(longest.values()), np.float64)
        with np.errstate(over="ignore"):
            penalties = np.minimum(self.multiplier * self.base ** (n - self.allowed_length), _MAX_PENALTY)
        where, which = candidates.find(tokens)
        candidates.logits[where] -= penalties[which].astype(np.float32)
        candidates.sorted = False

    def accept(self, token: int) -> None:
        """Add the token to the text."""
        self._make_room()
        n, text = self.n, self._text(token)

        if self._has_breaker(self.tail, text):
            self.lengths[:n] = 0
        else:  # passages that continue with this token get one longer, all others end
            before = np.concatenate(([0], self.lengths[: max(n - 1, 0)]))[:n]
            self.lengths[:n] = np.where(self.tokens[:n] == token, before + 1, 0)

        self.tokens[n], self.lengths[n] = token, 0
        self.n = n + 1
        self.tail += text
        self._shorten_tail()

    def _make_room(self) -> None:
        """Drop tokens before the window if the arrays are full, and enlarge the arrays."""
        if self.n < len(self.tokens):
            return

        first = max(self.n - self.last_n, 0)
        tokens, lengths = self.tokens[first:], self.lengths[first:]
        self.n -= first
        self.tokens, self.lengths = np.resize(tokens, 2 * self.n + 256), np.resize(lengths, 2 * self.n + 256)

    def _text(self, token: int) -> bytes:
        return self.tokenizer.piece(token, special=True)

    def _has_breaker(self, tail: bytes, text: bytes) -> bool:
        """Return whether a sequence breaker ends within ``text``, which follows ``tail``."""
        whole = tail + text
        return any(whole.find(breaker, max(len(tail) - len(breaker) + 1, 0)) >= 0 for breaker in self.breakers)

    def _tokens_since_breaker(self, texts: Sequence[bytes]) -> int:
        """Return the number of tokens after the one in which the last sequence breaker ends."""
        whole = b"".join(texts)
        end = max((at + len(item) for item in self.breakers if (at := whole.rfind(item)) >= 0), default=0)
        ends = np.cumsum([len(text) for text in texts])
        return len(texts) - 1 - int(ends.searchsorted(end)) if end else len(texts)

    def _shorten_tail(self) -> None:
        self.tail = self.tail[max(len(self.tail) - self.max_tail, 0) :]


def _common_suffixes(tokens: Sequence[int]) -> list[int]:
    """Return for each i the length of the longest common suffix of ``tokens[: i + 1]`` and ``tokens``.

    The last entry is 0. Runs the Z-algorithm backwards (Gusfield: Algorithms on Strings, Trees, and Sequences, 1997,
    §1.4).
    """
    text, n = tokens[::-1], len(tokens)
    lengths, left, right = [0] * n, 0, 0

    for i in range(1, n):
        length = min(lengths[i - left], right - i) if i < right else 0
        while i + length < n and text[length] == text[i + length]:
            length += 1
        lengths[i] = length
        if i + length > right:
            left, right = i, i + length

    return lengths[::-1]


@hookimpl
def register_samplers(register: Register) -> None:
    """Register the sampler ``dry``."""
    register("dry", Dry)
