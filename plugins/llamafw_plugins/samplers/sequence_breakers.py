"""Find the tokens of the texts that end a passage for DRY.

A text is matched as llama.cpp does it: one token contains the text, or one token ends with the beginning of the text
and the following tokens are those of the rest. Independent of the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt

from llamafw import Tokenizer

MAX_TAIL = 20  # tokens of a text's rest that are compared, as in llama.cpp
_N_CACHED = 64  # texts per tokenizer; each needs about one byte per token of the vocabulary

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Breaker:
    """The tokens that contain one text, and those that only begin it."""

    whole: Mask  # (n_vocab,) the tokens that contain the text
    parts: Sequence[tuple[Mask, tuple[int, ...]]]  # tokens that end with its beginning, and the tokens of its rest


class Vocabulary:
    """The bytes of all tokens of a model, to be searched for texts.

    Parameters
    ----------
    tokenizer : Tokenizer
        The model's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = [tokenizer.piece(token, special=True) for token in range(tokenizer.n_vocab)]
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._bytes = np.frombuffer(b"".join(pieces), np.uint8)

    def tokens_with(self, text: bytes) -> Mask:
        """Return for each token whether it contains ``text``."""
        at = np.arange(max(len(self._bytes) - len(text) + 1, 0))
        for i, byte in enumerate(text):
            at = at[self._bytes[at + i] == byte]
        tokens = self._ends.searchsorted(at, side="right")
        found = np.zeros(len(self._ends), np.bool_)
        found[tokens[at + len(text) <= self._ends[tokens]]] = True
        return found

    def tokens_ending_with(self, text: bytes) -> Mask:
        """Return for each token whether it ends with ``text``."""
        tokens = np.flatnonzero(self._ends - self._starts >= len(text))
        for i, byte in enumerate(text):
            tokens = tokens[self._bytes[self._ends[tokens] - len(text) + i] == byte]
        found = np.zeros(len(self._ends), np.bool_)
        found[tokens] = True
        return found


class BreakerFinder:
    """Finds the tokens of texts for one tokenizer, and remembers the last results."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary, reference = Vocabulary(tokenizer), ref(tokenizer)

        @lru_cache(_N_CACHED)
        def find(text: str) -> Breaker:
            owner = reference()  # a strong reference would never let the tokenizer leave `_FINDERS`
            assert owner is not None, "the caller has the tokenizer"
            data, parts = text.encode(), []
            whole = vocabulary.tokens_with(data)
            for i in range(1, len(data)):
                heads = vocabulary.tokens_ending_with(data[:i]) & ~whole
                rest = owner.encode(data[i:].decode(errors="replace"), parse_special=False)
                if rest and heads.any():
                    parts.append((heads, tuple(rest[:MAX_TAIL])))
            return Breaker(whole, parts)

        self.find = find


_FINDERS: WeakKeyDictionary[Tokenizer, BreakerFinder] = WeakKeyDictionary()


def find_breakers(texts: Sequence[str], tokenizer: Tokenizer) -> list[Breaker]:
    """Return the tokens of each text that is not empty."""
    if not any(texts):
        return []
    if tokenizer not in _FINDERS:
        _FINDERS[tokenizer] = BreakerFinder(tokenizer)
    return [_FINDERS[tokenizer].find(text) for text in texts if text]
