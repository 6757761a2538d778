"""Mirostat: remove unlikely tokens to keep the surprise of the text near a target.

Basu et al.: Mirostat: a neural text decoding algorithm that directly controls perplexity (2021), algorithms 1 and 2.
The surprise of a token is -log2 of its probability, in bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, log2
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from llamafw import Candidates, Ints, JsonSchema, Sampler, SamplerContext

_N_FIT = 100  # candidates from which the exponent of Zipf's law is estimated


class Mirostat:
    """Keeps the likeliest candidates, as many as version 1 or 2 of Mirostat allows, and adapts to each drawn token.

    Parameters
    ----------
    version : int
        1 or 2.
    tau : float
        Target surprise of a token, in bits.
    eta : float
        Learning rate.
    n_vocab : int
        Size of the vocabulary.
    """

    options: ClassVar[JsonSchema] = {
        "mirostat": {
            "type": "integer",
            "default": 0,
            "minimum": 0,
            "maximum": 2,
            "description": "Mirostat 1 or 2, which replaces all samplers but penalties and temperature; 0: off.",
        },
        "mirostat_tau": {
            "type": "number",
            "default": 5.0,
            "minimum": 0,
            "maximum": 1000,
            "description": "Mirostat's target: the surprise of a token, in bits.",
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
        self._mu = 2 * tau  # maximum surprise of a token, in bits
        self._ids: Ints = np.empty(0, np.int32)
        self._logits: npt.NDArray[np.float64] = np.empty(0)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request, or None if ``mirostat`` is 0."""
        version = int(options["mirostat"])
        if not version:
            return None
        return cls(version, float(options["mirostat_tau"]), float(options["mirostat_eta"]), context.n_vocab)

    def apply(self, candidates: Candidates) -> None:
        """Keep the likeliest candidates, in descending order."""
        order = slice(None) if candidates.sorted else np.lexsort((candidates.ids, -candidates.logits))
        ids, logits = candidates.ids[order], candidates.logits[order]
        weights = np.exp(logits.astype(np.float64) - float(logits[0]))
        bits = np.log2(weights.sum()) - np.log2(weights, where=weights > 0, out=np.full(len(weights), -np.inf))

        n = self._n_by_zipf(bits) if self._version == 1 else int(np.count_nonzero(bits <= self._mu))
        n = max(min(n, len(ids)), 1)

        candidates.ids, candidates.logits, candidates.sorted = ids[:n], logits[:n], True
        self._ids, self._logits = candidates.ids, candidates.logits.astype(np.float64)

    def accept(self, token: int) -> None:
        """Change the maximum surprise by the token's difference from the target.

        The surprise is computed from the candidates that were kept.
        """
        i = np.flatnonzero(self._ids == token)
        if len(i):
            difference = self._logits[0] - self._logits  # from the likeliest, in nats
            surprise = (log(float(np.exp(-difference).sum())) + float(difference[i[0]])) / log(2)
            self._mu -= self._eta * (surprise - self._tau)

    def _n_by_zipf(self, bits: npt.NDArray[np.float64]) -> int:
        """Return the number of likeliest tokens to keep for the target, if probabilities follow Zipf's law.

        Parameters
        ----------
        bits : (n,) float64
            Surprise of each candidate, ascending.
        """
        fit = bits[:_N_FIT]
        fit = fit[np.isfinite(fit)]
        if len(fit) < 2:
            return 1

        i = np.arange(1, len(fit))
        t, b = np.log((i + 1) / i), np.diff(fit) * log(2)
        s = float((t * b).sum() / (t * t).sum())
        epsilon = s - 1

        # k = (ε · 2^µ / (1 - N^-ε))^(1/s), computed with logarithms so that nothing overflows; ε = 0 gives 1 / ln N
        shrunk = -np.expm1(-epsilon * log(self._n_vocab))
        quotient = 1 / log(self._n_vocab) if abs(epsilon) < 1e-9 else epsilon / shrunk
        power = log2(quotient) + self._mu
        if s <= 1e-12 * abs(power):  # all tokens are almost equally likely: the limit of k is infinity or 0
            return len(bits) if power >= 0 else 1
        return int(2 ** min(power / s, 62.0))
