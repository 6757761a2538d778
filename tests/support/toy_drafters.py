"""Drafters for tests, which know the answers and spoil some of their guesses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamafw import DraftRequest, Ints


class KnowingDrafter:
    """Guesses the tokens of known texts.

    Parameters
    ----------
    texts : sequence of sequence of int
        Prompts with their answers.
    n_max : int
        Maximum number of tokens to guess.
    wrong_every : int
        Every so many positions, the guess is wrong; 0: never.

    Attributes
    ----------
    requests : list of (int, int, float)
        The number of tokens, `n_max` and `p_min` of all requests so far.
    finished : list of (int, list of int)
        The arguments of all calls of `finish`.
    """

    def __init__(self, texts: Sequence[Sequence[int]], *, n_max: int = 5, wrong_every: int = 0) -> None:
        self.n_max, self._wrong_every = n_max, wrong_every
        self._texts = [np.array(list(text), np.int32) for text in texts]
        self.requests: list[tuple[int, int, float]] = []
        self.finished: list[tuple[int, list[int]]] = []
        self.closed = False

    def draft(self, requests: Sequence[DraftRequest]) -> list[Ints]:
        return [self._guess(request) for request in requests]

    def _guess(self, request: DraftRequest) -> Ints:
        n = len(request.tokens)
        self.requests.append((n, request.n_max, request.p_min))
        for text in self._texts:
            if np.array_equal(text[:n], request.tokens):
                guess = text[n : n + request.n_max].copy()
                if self._wrong_every:
                    guess[(np.arange(n, n + len(guess)) % self._wrong_every) == 0] ^= 1
                return guess
        return np.empty(0, np.int32)

    def finish(self, slot: int, drawn: Ints) -> None:
        self.finished.append((slot, drawn.tolist()))

    def close(self) -> None:
        assert not self.closed
        self.closed = True
