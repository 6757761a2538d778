"""The tokens that a sampler chooses from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamafw.types.arrays import Floats, Ints


@dataclass(slots=True)
class Candidates:
    """The tokens still in the running. Samplers shrink, reorder or reweigh them in place.

    ``ids[i]`` is a token and ``logits[i]`` its score. Samplers may replace both arrays and write into
    ``logits``, until the token is drawn; ``ids`` may be shared and is read-only. At least one candidate must remain.
    """

    ids: Ints  # (n,)
    logits: Floats  # (n,)
    sorted: bool = False  # True: logits are in descending order; a sampler that breaks it says so

    def find(self, tokens: Ints) -> tuple[Ints, Ints]:
        """Return at which indices some tokens are, and for each of these, which of the tokens is there.

        Parameters
        ----------
        tokens : (m,) int
            Each of them once. Those that are no candidates any more are not in the answer.
        """
        if not len(tokens):
            return np.empty(0, np.int32), np.empty(0, np.int32)
        if len(self.ids) > tokens.max() and np.array_equal(self.ids[tokens], tokens):
            return tokens, np.arange(len(tokens), dtype=np.int32)  # the whole vocabulary in order: token = index
        order = tokens.argsort()
        which = order[np.minimum(tokens.searchsorted(self.ids, sorter=order), len(tokens) - 1)]
        where = np.flatnonzero(tokens[which] == self.ids)
        return where.astype(np.int32), which[where].astype(np.int32)
