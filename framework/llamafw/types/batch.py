"""The input of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamafw.errors import RequestError
from llamafw.types.arrays import Floats, Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one forward pass: token ``i`` belongs to ``slots[i]`` at ``positions[i]``.

    Tokens of one slot are adjacent, in ascending order of position, and continue the slot's cache.
    """

    tokens: Ints  # (n,)
    positions: Ints  # (n,)
    slots: Ints  # (n,)
    outputs: Ints  # (m,) ascending indices into the batch: the tokens whose logits are needed
    types: Ints | None = None  # (n,) of BERT: 1 for the tokens of the second of two texts; None: all are 0
    scales: Floats | None = None  # (n, n_scales) strengths of adapters; None: no token uses one
    hidden: Floats | None = None  # (n, n_hidden_rows) hidden states, if the graph needs them; see `graph.HiddenRows`

    def check_hidden(self, n: int) -> None:
        """Raise RequestError unless each token has a hidden state of ``n`` numbers; 0: the graph needs none."""
        found = None if self.hidden is None else self.hidden.shape
        if found != ((len(self.tokens), n) if n else None):
            raise RequestError(f"hidden states of shape {found} do not fit {len(self.tokens)} tokens and {n} numbers")

    def checked_types(self, n_types: int) -> Ints:
        """Return the type of each token, ``(n,)`` int32.

        Raises
        ------
        RequestError
            There is not one for each token, or one is not below ``n_types``.
        """
        if self.types is None:
            return np.zeros(len(self.tokens), np.int32)
        if len(self.types) != len(self.tokens):
            raise RequestError(f"the batch has {len(self.types)} types for {len(self.tokens)} tokens")
        if ((self.types < 0) | (self.types >= n_types)).any():
            found = f"{self.types.min()} to {self.types.max()}"
            raise RequestError(f"the types of the tokens are {found}; the model has those from 0 to {n_types - 1}")
        return self.types
