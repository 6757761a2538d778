"""Mirostat: cut off unlikely tokens so that the text's surprise stays near a target.

Basu et al.: Mirostat: a neural text decoding algorithm that directly controls perplexity (2021), algorithms 1 and 2.
Surprise is in bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, log2
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llamafw import Candidates, Ints, JsonSchema, Sampler, SamplerContext

_FITTED = 100  # candidates that the exponent of Zipf's law is estimated from


class Mirostat:
    """Keep the candidates that version 1 or 2 of Mirostat keeps; after each token, learn from its surprise."""

    options: ClassVar[JsonSchema] = {
        "mirostat": {
            "type": "integer",
            "default": 0,
            "minimum": 0,
            "maximum": 2,
            "description": "Mirostat 1 or 2, instead of the samplers other than penalties and temperature; 0: off.",
        },
        "mirostat_tau": {
            "type": "number",
            "default": 5.0,
            "minimum": 0,
            "maximum": 1000,
            "description": "Mirostat's target: how many bits of surprise a token has.",
        },
        "mirostat_eta": {
            "type": "number",
            "default": 0.1,
            "minimum": 0,
            "maximum": 1000,
            "description": "Mirostat's learning rate.",
        },
    }
    truncates: ClassVar[bool] = True

    def __init__(self, version: int, tau: float, eta: float, n_vocab: int) -> None:
        self._version, self._tau, self._eta, self._n_vocab = version, tau, eta, n_vocab
        self._mu = 2 * tau  # most bits that a token may have
        self._ids: Ints = np.empty(0, np.int32)
        self._logits: npt.NDArray[np.float64] = np.empty(0)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        version = int(options["mirostat"])
        if not version:
            return None
        return cls(version, float(options["mirostat_tau"]), float(options["mirostat_eta"]), context.n_vocab)

    def apply(self, candidates: Candidates) -> None:
        order = slice(None) if candidates.sorted else np.lexsort((candidates.ids, -candidates.logits))
        ids, logits = candidates.ids[order], candidates.logits[order]
        weights = np.exp(logits.astype(np.float64) - float(logits[0]))
        bits = np.log2(weights.sum()) - np.log2(weights, where=weights > 0, out=np.full(len(weights), -np.inf))
        n = self._n_of_zipf(bits) if self._version == 1 else int(np.count_nonzero(bits <= self._mu))
        n = max(min(n, len(ids)), 1)
        candidates.ids, candidates.logits, candidates.sorted = ids[:n], logits[:n], True
        self._ids, self._logits = candidates.ids, candidates.logits.astype(np.float64)

    def accept(self, token: int) -> None:
        """Move the bound against how far the token's surprise, among those that were left, was off the target."""
        i = np.flatnonzero(self._ids == token)
        if len(i):
            below = self._logits[0] - self._logits  # the likeliest, in nats
            surprise = (log(float(np.exp(-below).sum())) + float(below[i[0]])) / log(2)
            self._mu -= self._eta * (surprise - self._tau)

    def _n_of_zipf(self, bits: npt.NDArray[np.float64]) -> int:
        """Return how many of the likeliest tokens have the wanted surprise, if probabilities follow Zipf's law."""
        most = bits[:_FITTED]
        most = most[np.isfinite(most)]
        if len(most) < 2:
            return 1
        i = np.arange(1, len(most))
        t, b = np.log((i + 1) / i), np.diff(most) * log(2)
        s = float((t * b).sum() / (t * t).sum())
        epsilon = s - 1
        # k = (ε · 2^µ / (1 - N^-ε))^(1/s), in logarithms, which do not overflow; at ε = 0 the quotient is 1 / ln N
        shrunk = -np.expm1(-epsilon * log(self._n_vocab))
        quotient = 1 / log(self._n_vocab) if abs(epsilon) < 1e-9 else epsilon / shrunk
        power = log2(quotient) + self._mu
        if s <= 1e-12 * abs(power):  # as good as equally likely: the limit is all or, with less surprise wanted, one
            return len(bits) if power >= 0 else 1
        return int(2 ** min(power / s, 62.0))
