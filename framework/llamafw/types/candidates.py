"""The tokens that a sampler chooses from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamafw.types.arrays import Floats, Ints


@dataclass(slots=True)
class Candidates:
    """The tokens that can still be drawn, with their logits.

    Samplers change it in place.

    ``ids[i]`` is a token and ``logits[i]`` its logit. Samplers may replace both arrays and may write into ``logits``;
    ``ids`` can be shared and is read-only. At least one candidate must remain.
    """

    ids: Ints  # (n,)
    logits: Floats  # (n,)
    sorted: bool = False  # True: logits are in descending order; a sampler that changes the order sets it to False

    def find(self, tokens: Ints) -> tuple[Ints, Ints]:
        """Find tokens among the candidates.

        Parameters
        ----------
        tokens : (m,) int
            Distinct tokens. Those that are not candidates are left out of the result.

        Returns
        -------
        indices : (k,) int32
            Indices of the found tokens in ``ids``.
        which : (k,) int32
            Indices of the same tokens in ``tokens``: ``ids[indices] == tokens[which]``.
        """
        if not len(tokens):
            return np.empty(0, np.int32), np.empty(0, np.int32)
        if len(self.ids) > tokens.max() and np.array_equal(self.ids[tokens], tokens):
            return tokens, np.arange(len(tokens), dtype=np.int32)  # whole vocabulary in order: index == token
        order = tokens.argsort()
        which = order[np.minimum(tokens.searchsorted(self.ids, sorter=order), len(tokens) - 1)]
        where = np.flatnonzero(tokens[which] == self.ids)
        return where.astype(np.int32), which[where].astype(np.int32)
