"""Guess that a text goes on as earlier texts did: the text itself, or earlier responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamafw import Drafter, DrafterContext, DraftRequest, Ints
from llamafw_plugins.drafters.ngrams import NO_TOKENS, agreed, continuations

N_EARLIER = 65_536
"""Tokens of earlier responses that are kept."""


class NgramMapK:
    """Searches for the last ``size_n`` tokens of a text in the same text, then in earlier responses.

    The guess is what followed the last occurrence, as far as at least ``min_hits`` occurrences agree. It pays where
    responses resemble each other, such as answers to similar questions, or the next version of a file.

    Parameters
    ----------
    size_n : int
        How many of the last tokens are searched for.
    size_m : int
        Maximum number of tokens to guess.
    min_hits : int
        How often they must have been followed by the same tokens.
    n_earlier : int
        Tokens of earlier responses that are kept.
    """

    def __init__(self, size_n: int, size_m: int, min_hits: int = 1, n_earlier: int = N_EARLIER) -> None:
        self.n_max = size_m
        self._size_n, self._min_hits = size_n, min_hits
        self._earlier = np.full(n_earlier, -1, np.int32)  # responses, each ending with -1; the newest are at the end
        self._n_earlier = 0  # tokens that are used, at the end

    @classmethod
    def create(cls, context: DrafterContext) -> Drafter:
        """Return the drafter of a model."""
        settings = context.settings
        return cls(
            settings.spec_ngram_map_k_size_n, settings.spec_ngram_map_k_size_m, settings.spec_ngram_map_k_min_hits
        )

    def draft(self, requests: Sequence[DraftRequest]) -> Sequence[Ints]:
        """Return the tokens that followed the last occurrence."""
        return [self._guess(request.tokens, min(request.n_max, self.n_max)) for request in requests]

    def _guess(self, tokens: Ints, n: int) -> Ints:
        ngram = tokens[-self._size_n :]
        if len(ngram) < self._size_n:
            return NO_TOKENS
        for text in (tokens, self._earlier[len(self._earlier) - self._n_earlier :]):
            found = continuations(text, ngram)
            if len(found) >= self._min_hits:
                draft = agreed(text, found, n, self._min_hits)
                if len(draft):
                    return draft.copy()
        return NO_TOKENS

    def finish(self, slot: int, drawn: Ints) -> None:
        """Keep a response."""
        if len(drawn) <= self._size_n:
            return
        kept = np.append(drawn[-len(self._earlier) + 1 :], np.int32(-1))
        self._earlier = np.concatenate([self._earlier[len(kept) :], kept])
        self._n_earlier = min(self._n_earlier + len(kept), len(self._earlier))

    def close(self) -> None:
        """Do nothing."""
