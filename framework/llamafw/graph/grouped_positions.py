"""The positions of Self-Extend (arXiv:2401.01325), with which a model reads texts longer than those of its training.

A text is divided into windows of ``width`` tokens. In a window that is not full, each token has its own position. Once
the window is full, ``factor`` adjacent tokens share a position, and the next window begins at the position after them.
So a token sees the tokens of its own window at exact distances, and all others at distances in groups, and positions
grow ``factor`` times more slowly than the text.

These are the positions of llama.cpp. In the paper, a query has exact distances to the last tokens, however the text is
divided; that would need each key at two positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamafw.graph.values import POSITIONS, Array, GraphError, Shape, Value

if TYPE_CHECKING:
    from llamafw.graph.attention import Rotation
    from llamafw.graph.evaluate import Evaluation


@dataclass(frozen=True, slots=True, eq=False)
class GroupedPositions(Value):
    """The position of each token while its window is not full.

    If keys in a `Cache` are rotated by these positions, the keys of full windows have the positions of groups.
    """

    factor: int  # tokens per group
    width: int  # tokens per window, a multiple of the factor
    positions: Value = POSITIONS

    def infer_shape(self) -> Shape:
        """Return the shape of a single number."""
        if self.factor < 1 or self.width < 1 or self.width % self.factor:
            raise GraphError(f"windows of {self.width} tokens cannot be divided into groups of {self.factor}")
        return ()

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the positions, ``(n_tokens,)``."""
        return self.of(inputs["positions"])

    def of(self, tokens: Array) -> Array:
        """Return the positions of tokens in the windows that they belong to, by their index in the text."""
        windows, offsets = np.divmod(tokens, self.width)
        return windows * (self.width // self.factor) + offsets

    def moves(self) -> Array:
        """Return by how many positions each token of a window moves back when the window is full, ``(width,)``."""
        offsets = np.arange(self.width)
        return offsets - offsets // self.factor

    def seen(self, keys: Array, tokens: Array, rotation: Rotation, start: int, n_ctx: int) -> Array:
        """Return the keys as queries see them: those of earlier windows have moved.

        Parameters
        ----------
        keys : array
            The keys of the whole text, each with the position that it had first, ``(n_keys, n_head, size)``.
        tokens : array
            The index of each query in the text, ``(n_tokens,)``.
        rotation : Rotation
            How the keys are rotated.
        start : int
            The number of a key at which the part begins that ``rotation`` is about.
        n_ctx : int
            Maximum length of the text, in tokens.

        Returns
        -------
        array
            The keys for each query, ``(n_tokens, n_keys, n_head, size)``.
        """
        indices = np.arange(len(keys))
        angles = (self.moves()[indices % self.width, None] * rotation.frequencies_for(n_ctx))[:, None]
        first, second = (slice(start + part.start, start + part.stop, part.step) for part in rotation.pairs())
        cos, sin, moved = np.cos(angles), np.sin(angles), keys.copy()
        moved[..., first] = keys[..., first] * cos + keys[..., second] * sin
        moved[..., second] = keys[..., second] * cos - keys[..., first] * sin

        is_earlier = indices // self.width < (tokens // self.width)[:, None]
        return np.where(is_earlier[..., None, None], moved, keys)
