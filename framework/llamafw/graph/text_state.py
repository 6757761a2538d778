"""What the tokens of a text leave for the tokens after them, while a graph is evaluated."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw.graph.attention import Cache
from llamafw.graph.model import Graph, states
from llamafw.graph.values import Array, Value


class TextState:
    """The keys, values and fixed states of one text.

    Parameters
    ----------
    graph : Graph
        The model.
    n_ctx : int
        Maximum length of the text, in tokens.
    dtype : numpy type
        The type of fixed states, and of keys and values unless ``cache_types`` says otherwise.
    cache_types : (numpy type, numpy type), optional
        The types in which keys and values are kept.

    Attributes
    ----------
    n_tokens : int
        The length of the text, in tokens.
    caches : dict of Cache to (array, array)
        Keys and values, ``(n_ctx, n_head, size)``; those after ``n_tokens`` have no meaning.
    fixed : dict of Value to array
        The state of each operator that has one of fixed size, ``value.state_shape``.
    """

    def __init__(
        self, graph: Graph, n_ctx: int, dtype: Any = np.float64, cache_types: tuple[Any, Any] | None = None
    ) -> None:
        self.n_ctx, self.n_tokens = n_ctx, 0
        self.caches: dict[Value, tuple[Array, Array]] = {}
        self.fixed: dict[Value, Array] = {}
        key_type, value_type = cache_types or (dtype, dtype)
        for state in states(graph):
            if isinstance(cache := state.value, Cache):
                keys = np.zeros((n_ctx, *cache.k.shape), key_type)
                self.caches[cache] = keys, np.zeros((n_ctx, *cache.v.shape), value_type)
            else:
                self.fixed[state.value] = np.zeros(state.fixed, dtype)

    def arrays(self, n: int) -> list[Array]:
        """Return views of the keys and values of the first ``n`` tokens, and of all fixed states."""
        return [part[:n] for pair in self.caches.values() for part in pair] + list(self.fixed.values())

    def clear(self) -> None:
        """Remove all tokens."""
        self.n_tokens = 0
        for state in self.fixed.values():
            state[...] = 0
