"""Guess that a text goes on as it did when its last tokens occurred before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamafw import Drafter, DrafterContext, DraftRequest, Ints
from llamafw_plugins.drafters.ngrams import NO_TOKENS, continuations


class NgramSimple:
    """Searches for the last ``size_n`` tokens of a text in the same text, and guesses what followed them there.

    It needs no model and keeps nothing. It pays where a response repeats its prompt or itself: code that is changed, a
    text that is corrected, lists, tables. If the continuation reaches the end of the text, the text is periodic, and
    the guess repeats the period. Known as prompt lookup decoding: https://github.com/apoorvumang/prompt-lookup-decoding

    Parameters
    ----------
    size_n : int
        How many of the last tokens are searched for.
    size_m : int
        Maximum number of tokens to guess.
    min_hits : int
        How often they must have occurred before.
    """

    def __init__(self, size_n: int, size_m: int, min_hits: int = 1) -> None:
        self.n_max = size_m
        self._size_n, self._min_hits = size_n, min_hits

    @classmethod
    def create(cls, context: DrafterContext) -> Drafter:
        """Return the drafter of a model."""
        settings = context.settings
        return cls(
            settings.spec_ngram_simple_size_n, settings.spec_ngram_simple_size_m, settings.spec_ngram_simple_min_hits
        )

    def draft(self, requests: Sequence[DraftRequest]) -> Sequence[Ints]:
        """Return the tokens that followed the last occurrence."""
        return [self._guess(request.tokens, min(request.n_max, self.n_max)) for request in requests]

    def _guess(self, tokens: Ints, n: int) -> Ints:
        found = continuations(tokens, tokens[-self._size_n :]) if len(tokens) > self._size_n else NO_TOKENS
        if len(found) < self._min_hits:
            return NO_TOKENS
        return np.resize(tokens[found[-1] :], n)  # repeats it if it is shorter

    def finish(self, slot: int, drawn: Ints) -> None:
        """Do nothing: nothing is kept about responses."""

    def close(self) -> None:
        """Do nothing."""
