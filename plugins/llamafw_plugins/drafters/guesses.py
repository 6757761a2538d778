"""Guess the next token of a response from logits that a drafter has computed."""

from __future__ import annotations

import numpy as np

from llamafw import DraftRequest, Floats


def guess(logits: Floats, request: DraftRequest) -> int | None:
    """Return the token that a response will probably draw; None if it is less probable than the request allows.

    Parameters
    ----------
    logits : (n_vocab,) float32
        The logits.
    request : DraftRequest
        The response; how it draws, and its ``p_min``.
    """
    token = request.draw(logits)
    if request.p_min > 0:
        p = 1 / float(np.exp(logits.astype(np.float64) - float(logits[token])).sum())
        if p < request.p_min:
            return None
    return token
