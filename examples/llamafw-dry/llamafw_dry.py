"""DRY, "don't repeat yourself": a token that would go on with a passage that was there before loses probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, Ints, JsonSchema, Register, Sampler, SamplerContext, Tokenizer, hookimpl

requires_api = ">=1.0,<2"
_MOST = 1e30  # far beyond any logit, and within float32


class Dry:
    """logit -= multiplier · base ** (n - allowed_length), for tokens with n ≥ allowed_length.

    n is the length of the longest passage at the end of the text that occurred before, followed by this token. Passages
    do not reach across a sequence breaker, and what contains one is not penalised. After the definition by its author,
    Philipp Emanuel Weidmann: https://github.com/oobabooga/text-generation-webui/pull/5677. Breakers are looked for in
    the text, so they may be several tokens.

    Parameters
    ----------
    prompt : sequence of int
        Its last ``last_n`` tokens count.
    breakers : sequence of bytes
        None of them empty.
    """

    options: ClassVar[JsonSchema] = {
        "dry_multiplier": {
            "type": "number",
            "minimum": 0,
            "maximum": 1000,
            "default": 0,
            "description": "Strength of the penalty on repeated passages (DRY); 0: off.",
        },
        "dry_base": {
            "type": "number",
            "minimum": 1,
            "maximum": 1000,
            "default": 1.75,
            "description": "The DRY penalty is multiplied by this for each token that a repeated passage is longer.",
        },
        "dry_allowed_length": {
            "type": "integer",
            "minimum": 1,
            "maximum": 2147483647,
            "default": 2,
            "description": "Tokens that repeat a passage of at least this length are penalised by DRY.",
        },
        "dry_penalty_last_n": {
            "type": "integer",
            "minimum": -1,
            "maximum": 2147483647,
            "default": -1,
            "description": "How many tokens DRY looks back on; 0: none, -1: the whole context.",
        },
        "dry_sequence_breakers": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 40},
            "maxItems": 64,
            "default": ["\n", ":", '"', "*"],
            "description": "Texts that no repeated passage of DRY reaches across.",
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
        self.n_tail = max(map(len, breakers), default=1) - 1  # bytes of a breaker that may be in earlier tokens
        window = list(prompt[-last_n:])
        texts = [self._text(token) for token in window]
        self.tail = b"".join(texts)
        self.n = n = len(window)
        self.tokens: Ints = np.zeros(n + 256, np.int32)  # [:n]
        self.lengths: Ints = np.zeros(n + 256, np.int32)  # [i]: how many of the last tokens are those that end at i
        self.tokens[:n] = window
        self.lengths[:n] = np.minimum(_common_ends(window), self._since_break(texts))
        self._shorten_tail()

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return the sampler, or None if it is off."""
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
        """Penalise what would make a repeated passage longer."""
        first = max(self.n - self.last_n, 0)
        lengths = self.lengths[first : self.n - 1]
        lengths = np.minimum(lengths, np.arange(1, len(lengths) + 1, dtype=np.int32))  # within the window
        at = np.flatnonzero(lengths >= self.allowed_length)
        if not len(at):
            return
        at = at[np.argsort(lengths[at], kind="stable")]
        found = zip(self.tokens[first + at + 1].tolist(), lengths[at].tolist(), strict=True)
        longest = dict(found)  # of a token's lengths the last one, which is the longest
        longest = {token: n for token, n in longest.items() if not self._breaks(b"", self._text(token))}
        tokens, n = np.array(list(longest), np.int32), np.array(list(longest.values()), np.float64)
        with np.errstate(over="ignore"):
            penalties = np.minimum(self.multiplier * self.base ** (n - self.allowed_length), _MOST)
        where, which = candidates.find(tokens)
        candidates.logits[where] -= penalties[which].astype(np.float32)
        candidates.sorted = False

    def accept(self, token: int) -> None:
        """Add the token to the text."""
        self._make_room()
        n, text = self.n, self._text(token)
        if self._breaks(self.tail, text):
            self.lengths[:n] = 0
        else:  # what ended with the token before goes on, or begins anew
            before = np.concatenate(([0], self.lengths[: max(n - 1, 0)]))[:n]
            self.lengths[:n] = np.where(self.tokens[:n] == token, before + 1, 0)
        self.tokens[n], self.lengths[n] = token, 0
        self.n = n + 1
        self.tail += text
        self._shorten_tail()

    def _make_room(self) -> None:
        """Forget what is out of the window; if nothing much is, take more memory."""
        if self.n < len(self.tokens):
            return
        first = max(self.n - self.last_n, 0)
        tokens, lengths = self.tokens[first:], self.lengths[first:]
        self.n -= first
        self.tokens, self.lengths = np.resize(tokens, 2 * self.n + 256), np.resize(lengths, 2 * self.n + 256)

    def _text(self, token: int) -> bytes:
        return self.tokenizer.piece(token, special=True)

    def _breaks(self, tail: bytes, text: bytes) -> bool:
        """Return whether a sequence breaker ends in ``text``, which comes after ``tail``."""
        whole = tail + text
        return any(whole.find(breaker, max(len(tail) - len(breaker) + 1, 0)) >= 0 for breaker in self.breakers)

    def _since_break(self, texts: Sequence[bytes]) -> int:
        """Return how many tokens there are after the one in which the last sequence breaker ends."""
        whole = b"".join(texts)
        end = max((at + len(one) for one in self.breakers if (at := whole.rfind(one)) >= 0), default=0)
        ends = np.cumsum([len(text) for text in texts])
        return len(texts) - 1 - int(ends.searchsorted(end)) if end else len(texts)

    def _shorten_tail(self) -> None:
        self.tail = self.tail[max(len(self.tail) - self.n_tail, 0) :]


def _common_ends(tokens: Sequence[int]) -> list[int]:
    """Return for each i how many tokens before the end of ``tokens[: i + 1]`` are those before the end of ``tokens``.

    The Z-algorithm, from behind (Gusfield: Algorithms on Strings, Trees, and Sequences, 1997, §1.4).
    """
    text, n = tokens[::-1], len(tokens)
    found, left, right = [0] * n, 0, 0
    for i in range(1, n):
        length = min(found[i - left], right - i) if i < right else 0
        while i + length < n and text[length] == text[i + length]:
            length += 1
        found[i] = length
        if i + length > right:
            left, right = i, i + length
    return found[::-1]


@hookimpl
def register_samplers(register: Register) -> None:
    """Offer the sampler under its name."""
    register("dry", Dry)
