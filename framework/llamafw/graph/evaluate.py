"""Evaluates any graph in float64.

Slow and simple: backends are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llamafw.graph.model import Graph
from llamafw.graph.values import Array, Value
from llamafw.graph.weights import Weight
from llamafw.types import Model

if TYPE_CHECKING:
    from llamafw.interfaces import Quant


class Evaluation:
    """What operators need to be evaluated: the tokens of one text and the weights of the model.

    Parameters
    ----------
    tokens : sequence of int
        The text's tokens from its start, ``(n_tokens,)``.
    read : callable
        Returns the numbers of the tensor with a given name.
    """

    def __init__(self, tokens: Sequence[int], read: Callable[[str], Array]) -> None:
        self.tokens = np.array(tokens, np.int64)
        self.positions = np.arange(len(tokens))
        self._read = read
        self._cache: dict[str, Array] = {}

    def weight(self, weight: Weight) -> Array:
        """Return a weight in float64."""
        if weight.name not in self._cache:
            self._cache[weight.name] = np.asarray(self._read(weight.name), np.float64)
        array = self._cache[weight.name]
        return (array[weight.first : weight.last] if weight.last is not None else array).reshape(weight.shape)


def evaluate(graph: Graph, tokens: Sequence[int], read: Callable[[str], Array]) -> tuple[Array, Array | None]:
    """Return the hidden states and the logits of each token of a text.

    Parameters
    ----------
    graph : Graph
        The model.
    tokens : sequence of int
        The text's tokens from its start, ``(n_tokens,)``.
    read : callable
        Returns the numbers of the tensor with a given name; `read_weights` makes it.

    Returns
    -------
    hidden : (n_tokens, n_embd) float64
        The hidden states.
    logits : (n_tokens, n_vocab) float64, or None
        The logits, if the model has them.
    """
    run = Evaluation(tokens, read)
    rows: dict[int, Any] = {}
    for value in graph:
        rows[id(value)] = value.evaluate(_operands(value, rows), run)
    return rows[id(graph.hidden)], None if graph.logits is None else rows[id(graph.logits)]


def read_weights(model: Model, quants: Mapping[str, Quant]) -> Callable[[str], Array]:
    """Return a function that reads and dequantises the tensors of a model file."""

    def read(name: str) -> Array:
        tensor = model.tensors[name]
        return quants[tensor.type_name].dequantize(tensor.data, tensor.shape)

    return read


def _operands(value: Value, rows: Mapping[int, Any]) -> dict[str, Any]:
    return {
        name: [rows[id(one)] for one in operand] if isinstance(operand, tuple) else rows[id(operand)]
        for name, operand in value.operands()
    }
