"""Evaluates any graph with numpy, a text at once or piece by piece.

Slow and simple: backends are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llamafw.graph.model import Graph
from llamafw.graph.text_state import TextState
from llamafw.graph.values import Array, GraphError, Value
from llamafw.graph.weights import Weight
from llamafw.types import Model

if TYPE_CHECKING:
    from llamafw.graph.attention import Cache
    from llamafw.interfaces import Quant


class Evaluation:
    """What operators need to be evaluated: some tokens of a text, the state of the text before them, and the weights.

    Parameters
    ----------
    tokens : sequence of int
        The tokens, ``(n_tokens,)``.
    state : TextState
        The state of the text before these tokens; operators update it.
    weights : mapping of str to array
        The model's tensors by name.
    types : sequence of int, optional
        The types of the tokens, ``(n_tokens,)``; by default all are 0.
    scales : array, optional
        The numbers of `TokenScales`, ``(n_tokens, n)``, or ``(n,)`` if all tokens have the same.
    hidden : array, optional
        The numbers of `HiddenRows`, ``(n_tokens, n)``.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        state: TextState,
        weights: Mapping[str, Array],
        *,
        types: Sequence[int] | None = None,
        scales: Array | None = None,
        hidden: Array | None = None,
    ) -> None:
        self.tokens = np.array(tokens, np.int64)
        self.types = np.zeros_like(self.tokens) if types is None else np.array(types, np.int64)
        self.positions = state.n_tokens + np.arange(len(tokens))  # (n_tokens,)
        self.n_ctx = state.n_ctx  # maximum length of the text, in tokens
        self._state, self._weights, self._scales, self._hidden = state, weights, scales, hidden

    def scales(self, n: int) -> Array:
        """Return the numbers that the batch provides for each token, ``(n_tokens, n)``; zeros if it has none."""
        given = np.zeros(n) if self._scales is None else self._scales
        return np.broadcast_to(given, (len(self.tokens), n))

    def hidden(self, n: int) -> Array:
        """Return the hidden states that the batch provides, ``(n_tokens, n)``; GraphError if it has none."""
        if self._hidden is None or self._hidden.shape != (len(self.tokens), n):
            raise GraphError(f"the batch has no hidden states of {n} numbers for {len(self.tokens)} tokens")
        return self._hidden

    def weight(self, weight: Weight) -> Array:
        """Return the numbers of a weight."""
        array = self._weights[weight.name]
        return (array[weight.first : weight.last] if weight.last is not None else array).reshape(weight.shape)

    def state(self, value: Value) -> Array:
        """Return the state that the text's earlier tokens left for an operator, ``value.state_shape``.

        It is zero at the start of a text. The operator writes its new state into it.
        """
        return self._state.fixed[value]

    def extend(self, cache: Cache, k: Array, v: Array) -> tuple[Array, Array]:
        """Add keys and values of these tokens to a cache; return those of the whole text, ``(n_positions, …)``."""
        end = self._state.n_tokens + len(k)
        keys, values = self._state.caches[cache]
        keys[end - len(k) : end], values[end - len(v) : end] = k, v
        return keys[:end].astype(k.dtype), values[:end].astype(v.dtype)


class Evaluator:
    """Evaluates a graph for any number of texts.

    It reads each weight once and keeps it.

    Parameters
    ----------
    graph : Graph
        The model.
    read : callable
        Returns the numbers of the tensor with a given name; `read_weights` makes it.
    dtype : numpy type
        The type of all numbers: float64, or float32 for a backend.
    """

    def __init__(self, graph: Graph, read: Callable[[str], Array], dtype: Any = np.float64) -> None:
        self.graph, self.dtype = graph, np.dtype(dtype)
        self._weights = _Weights(read, self.dtype)
        self._orders: dict[tuple[Value, ...], list[Value]] = {}

    def __call__(
        self,
        tokens: Sequence[int],
        state: TextState,
        *results: Value,
        types: Sequence[int] | None = None,
        scales: Array | None = None,
        hidden: Array | None = None,
    ) -> list[Array]:
        """Evaluate the next tokens of a text.

        Parameters
        ----------
        tokens : sequence of int
            The tokens, ``(n_tokens,)``.
        state : TextState
            The state of the text before these tokens; afterwards it includes them.
        *results : Value
            Values of the graph.
        types : sequence of int, optional
            The types of the tokens, ``(n_tokens,)``; by default all are 0.
        scales : array, optional
            The numbers of `TokenScales`, ``(n_tokens, n)``, or ``(n,)`` if all tokens have the same. Default: zeros.
        hidden : array, optional
            The numbers of `HiddenRows`, ``(n_tokens, n)``.

        Returns
        -------
        list of array
            The rows of each result, ``(n_tokens, *shape)``.
        """
        if results not in self._orders:
            self._orders[results] = self._needed(results)
        run = Evaluation(tokens, state, self._weights, types=types, scales=scales, hidden=hidden)
        rows: dict[Value, Any] = {}
        for value in self._orders[results]:
            rows[value] = self._convert(value.evaluate(_operands(value, rows), run))
        state.n_tokens += len(tokens)
        return [rows[result] for result in results]

    def _needed(self, results: tuple[Value, ...]) -> list[Value]:
        """Return the values that the results or the states of later tokens depend on, in the order of the graph."""
        values, needed = list(self.graph), set(results)
        for value in reversed(values):
            if value in needed or value.has_state:
                needed.update((value, *value.inputs()))
        return [value for value in values if value in needed]

    def _convert(self, rows: Any) -> Any:
        """Return rows in the evaluator's type: some operators compute with more digits."""
        if isinstance(rows, tuple):
            return tuple(map(self._convert, rows))
        return rows.astype(self.dtype, copy=False) if rows.dtype.kind == "f" else rows


def evaluate(
    graph: Graph,
    tokens: Sequence[int],
    read: Callable[[str], Array],
    *,
    types: Sequence[int] | None = None,
    scales: Array | None = None,
    hidden: Array | None = None,
) -> tuple[Array, Array | None]:
    """Return the hidden states and the logits of each token of a text.

    The context is as long as the text.

    Parameters
    ----------
    graph : Graph
        The model.
    tokens : sequence of int
        The text's tokens from its start, ``(n_tokens,)``.
    read : callable
        Returns the numbers of the tensor with a given name; `read_weights` makes it.
    types : sequence of int, optional
        The types of the tokens, ``(n_tokens,)``; by default all are 0.
    scales, hidden : array, optional
        See `Evaluator`.

    Returns
    -------
    hidden : (n_tokens, n_embd) float64
        The hidden states.
    logits : (n_tokens, n_vocab) float64, or None
        The logits, if the model has them.
    """
    results = [graph.hidden] if graph.logits is None else [graph.hidden, graph.logits]
    evaluator, state = Evaluator(graph, read), TextState(graph, len(tokens))
    rows, *logits = evaluator(tokens, state, *results, types=types, scales=scales, hidden=hidden)
    return rows, logits[0] if logits else None


def read_weights(model: Model, quants: Mapping[str, Quant]) -> Callable[[str], Array]:
    """Return a function that reads and dequantises the tensors of a model file."""

    def read(name: str) -> Array:
        tensor = model.tensors[name]
        return quants[tensor.type_name].dequantize(tensor.data, tensor.shape)

    return read


class _Weights(dict[str, Array]):
    """Weights by name, each read when it is first needed."""

    def __init__(self, read: Callable[[str], Array], dtype: np.dtype[Any]) -> None:
        super().__init__()
        self._read, self._dtype = read, dtype

    def __missing__(self, name: str) -> Array:
        self[name] = array = np.asarray(self._read(name), self._dtype)
        return array


def _operands(value: Value, rows: Mapping[Value, Any]) -> dict[str, Any]:
    return {
        name: [rows[one] for one in operand] if isinstance(operand, tuple) else rows[operand]
        for name, operand in value.operands()
    }
