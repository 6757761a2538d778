"""Infill: choose the end of the text, or one of few likely continuations, when code is filled in."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llamafw import Candidates, Ints, JsonSchema, Sampler, SamplerContext, Tokenizer

_MIN_P = 0.2  # of a continuation in the first selection
_N_MERGED = 1000  # likeliest candidates whose texts are compared
_EOG_WEIGHT = 3  # how much end-of-generation tokens count against the average of the others


class Infill:
    """Ends the text if the model is undecided, otherwise keeps the continuations that stand out.

    1. If the end-of-generation tokens have a probability above ``P(others) / (3 n)``, with n candidates, only they
       stay.
    2. Of two candidates of which one's text begins the other's, the likelier gets the probability of both.
    3. Candidates below 0.2 are removed, and then those below ``1 / (m + 1)``, where m are left. Tokens that end the
       generation stay.

    Meant for use after ``top_k`` and ``top_p``. Defined in https://github.com/ggml-org/llama.cpp/pull/9896
    """

    options: ClassVar[JsonSchema] = {}
    truncates: ClassVar[bool] = False  # it may keep only tokens that end the text

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request; None if no token ends a text."""
        return cls(context.tokenizer) if context.tokenizer.eog else None

    def apply(self, candidates: Candidates) -> None:
        """Keep the tokens that end the text, or the continuations that stand out."""
        order = np.lexsort((candidates.ids, -candidates.logits))
        order = order[candidates.logits[order] > -np.inf]
        ids, logits = candidates.ids[order], candidates.logits[order]
        weights = np.exp(logits.astype(np.float64) - float(logits[0]))
        p = weights / weights.sum()

        ends = np.isin(ids, list(self._tokenizer.eog))
        if ends.any() and _EOG_WEIGHT * p[ends].sum() * len(candidates.ids) > p[~ends].sum():
            keep = ends
        else:
            self._merge(ids, p)
            keep = ends | (p >= _MIN_P)
            n_left = int((keep & ~ends).sum())
            keep &= ends | (p >= 1 / (n_left + 1))
            if not keep.any():  # no candidate ends the text
                keep[0] = True
        candidates.ids, candidates.logits, candidates.sorted = ids[keep], logits[keep], True

    def accept(self, token: int) -> None:
        """Do nothing."""

    def _merge(self, ids: Ints, p: npt.NDArray[np.float64]) -> None:
        """Add the probability of one of two tokens to that of the other if the text of one begins the other's."""
        likeliest = ids[:_N_MERGED].tolist()
        tokenizer = self._tokenizer  # a model may have more logits than its vocabulary has tokens
        texts = [tokenizer.piece(token) if token < tokenizer.n_vocab else b"" for token in likeliest]
        by_text = sorted(range(len(texts)), key=texts.__getitem__)
        in_order = [texts[i] for i in by_text]

        for i, text in enumerate(texts):
            if not text or p[i] == 0:
                continue
            first = bisect_left(in_order, text)
            end = first
            while end < len(in_order) and in_order[end].startswith(text):
                end += 1
            for j in sorted(set(by_text[first:end]) - {i}):
                if p[j] == 0:
                    continue
                to, source = (j, i) if p[j] > p[i] else (i, j)
                p[to] += p[source]
                p[source] = 0
                if source == i:
                    break
