"""Sum the squares of what each matrix of a model is multiplied with: the numbers of an importance matrix.

A model is changed so that its hidden state is the inputs of all its matrices, one after the other. Every backend can
run such a model, so the sums come from the same kernels that run the model otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from llamafw import graph as g
from llamafw.graph import ExpertLinear, Graph, Linear, TopK, Value, size_of
from llamafw.models.imatrix import Sums
from llamafw.types import Floats


@dataclass(frozen=True, slots=True)
class Observed:
    """A matrix whose inputs are in the rows of an observed graph."""

    name: str  # of the tensor
    n_experts: int  # 0: no experts
    rows: tuple[int, ...]  # shape of one token's input
    n_matrices: int  # that the rows of the input belong to; 1: all to the same matrix
    first: int  # where the input starts in a row
    scores: int = 0  # where the experts' scores start in a row
    n_used: int = 0  # experts per token


@dataclass(slots=True)
class ObservedGraph:
    """A graph whose hidden states are the inputs of matrices."""

    graph: Graph
    matrices: Sequence[Observed]
    skipped: Sequence[str]  # tensors whose inputs cannot be observed
    _sums: dict[str, Sums] = field(default_factory=dict)

    def add(self, rows: Floats) -> None:
        """Add the squares of some tokens, ``(n_tokens, n_embd)`` float32."""
        for one in self.matrices:
            squares, counts = _summed(one, rows)
            if one.name in self._sums:
                self._sums[one.name].squares[...] += squares
                self._sums[one.name].counts[...] += counts
            else:
                self._sums[one.name] = Sums(squares, counts)

    @property
    def sums(self) -> dict[str, Sums]:
        """What has been summed for each tensor; float64."""
        return self._sums


def observe(graph: Graph, *, output: bool = False) -> ObservedGraph:
    """Return a graph whose hidden states are the inputs of the matrices of a graph.

    Parameters
    ----------
    graph : Graph
        The model.
    output : bool
        Observe ``output.weight`` too, besides the matrices of layers.
    """
    places: dict[Value, int] = {}
    size = 0

    def place(value: Value) -> int:
        nonlocal size
        if value not in places:
            places[value] = size
            size += size_of(value)
        return places[value]

    found: dict[tuple[str, int], Observed] = {}
    skipped: list[str] = []
    for value in _matrices(graph):
        name = value.weight.name
        if not (name.startswith(("blk.", "enc.blk.")) or (output and name == "output.weight")):
            continue
        if isinstance(value, Linear):
            first = place(value.x)
            n_matrices = value.weight.shape[0] if len(value.weight.shape) > 2 else 1
            found[name, first] = Observed(name, 0, value.x.shape, n_matrices, first)
        elif isinstance(value.chosen, TopK):
            first, scores = place(value.x), place(value.chosen.x)
            n_experts = value.chosen.x.shape[0]
            found[name, first] = Observed(name, n_experts, value.x.shape, n_experts, first, scores, value.chosen.k)
        else:
            skipped.append(name)
    hidden = g.concat(*(g.flat(value) if len(value.shape) > 1 else value for value in places))
    return ObservedGraph(Graph(hidden, None, graph.n_ctx_train), list(found.values()), skipped)


def _matrices(graph: Graph) -> Iterator[Linear | ExpertLinear]:
    for value in graph:
        if isinstance(value, Linear | ExpertLinear):
            yield value


def _summed(one: Observed, rows: Floats) -> tuple[Floats, Floats]:
    """Return the sums of squares for a matrix, ``(n_matrices, n_columns)``, and how many rows were summed; float64."""
    n_tokens, size = len(rows), int(np.prod(one.rows))
    inputs = rows[:, one.first : one.first + size].reshape(n_tokens, *one.rows)
    if not one.n_experts:
        by_matrix = inputs.reshape(-1, one.n_matrices, one.rows[-1])
        squares = np.einsum("tmc,tmc->mc", by_matrix, by_matrix)
        return squares.astype(np.float64), np.array([len(by_matrix)], np.float64)

    scores = rows[:, one.scores : one.scores + one.n_experts]
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, : one.n_used]  # as TopK does
    is_chosen = np.zeros((n_tokens, one.n_used, one.n_experts), np.float32)
    np.put_along_axis(is_chosen, chosen[:, :, None], 1, axis=2)
    if inputs.ndim == 2:  # the same input for all experts of a token
        squares = is_chosen.sum(axis=1).T @ np.square(inputs)
    else:
        squares = np.einsum("tke,tkc->ec", is_chosen, np.square(inputs), optimize=True)
    return squares.astype(np.float64), is_chosen.sum(axis=(0, 1), dtype=np.float64)
