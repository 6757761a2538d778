"""Search for the last tokens of a text in the text before them, or in other texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llamafw import Ints

NO_TOKENS: Ints = np.empty(0, np.int32)


def continuations(tokens: Ints, ngram: Ints) -> npt.NDArray[np.int64]:
    """Return the positions in ``tokens`` that follow an occurrence of ``ngram``, ascending.

    The end of ``tokens`` is not among them.

    Parameters
    ----------
    tokens : (n_tokens,) int32
        The text.
    ngram : (n,) int32
        The tokens to search for, at least one.
    """
    n = len(ngram)
    if len(tokens) <= n:
        return np.empty(0, np.int64)
    ends = np.flatnonzero(tokens[n - 1 : -1] == ngram[-1]) + n - 1
    for i in range(2, n + 1):  # few are left after the first ones
        if not len(ends):
            break
        ends = ends[tokens[ends - i + 1] == ngram[-i]]
    return ends + 1


def agreed(tokens: Ints, positions: npt.NDArray[np.int64], n: int, min_hits: int) -> Ints:
    """Return up to ``n`` tokens that follow the last position, as far as they follow at least ``min_hits`` positions.

    Parameters
    ----------
    tokens : (n_tokens,) int32
        The text; -1 ends a part of it.
    positions : (m,) int64
        Positions in the text, ascending; at least one.
    n : int
        Maximum number of tokens.
    min_hits : int
        How many of the positions must be followed by the same tokens.
    """
    draft = tokens[positions[-1] : positions[-1] + n]
    ends = np.flatnonzero(draft == -1)
    draft = draft[: ends[0]] if len(ends) else draft
    if min_hits > 1:
        same = positions
        for i, token in enumerate(draft.tolist()):
            same = same[same + i < len(tokens)]
            same = same[tokens[same + i] == token]
            if len(same) < min_hits:
                return draft[:i]
    return draft
