"""Rewrites a graph so that adapters change what it computes, each token with the strengths of its own request.

A LoRA adapter changes matrices: ``W x`` becomes ``W x + B (s · (A x))`` (arXiv:2106.09685). The factors of all adapters
are stacked along the rank, and ``s`` has, for each row of ``A``, the strength of the adapter that the row belongs to,
or 0. So tokens with different adapters can be in one batch. Products with the same input share one stack of ``A``.

A control vector is added to the outputs of layers: ``x`` becomes ``x + D s`` (arXiv:2310.01405).

This module knows neither files nor numbers: it describes the stacked tensors, and `llamafw.models.adapters` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from llamafw.graph.experts import ExpertLinear
from llamafw.graph.model import Graph
from llamafw.graph.rewrite import rewrite
from llamafw.graph.rows import Add, EmbeddingLookup, LayerOutput, Linear, Mul
from llamafw.graph.shapes import Repeat, Reshape, Slice
from llamafw.graph.values import GraphError, Shape, TokenScales, Value
from llamafw.graph.weights import Weight

A, B = ".lora_a", ".lora_b"  # what follows the name of a tensor in the names of its two factors
_MULTIPLE = 16  # stacked ranks are padded with zeros to a multiple of it, because kernels have tiles of so many rows
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"

_MANY = 2**62  # more scales than any graph has

Product = Linear | ExpertLinear
Names = tuple[str, ...]
"""Names of matrices whose ``A`` are in one stack."""
Scales = tuple[tuple[int, float], ...]
"""Adapters and factors; see `Adaptation`."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What a LoRA adapter adds to one matrix: ``factor · B A``."""

    a: Shape  # (rank, n_in), or (n, rank, n_in) for experts or heads; of embeddings (n_rows, rank)
    b: Shape  # (n_out, rank), or (n, n_out, rank); of embeddings (n_embd, rank)
    factor: float  # alpha / rank

    @property
    def rank(self) -> int:
        """The number of rows of ``A``."""
        return self.b[-1]


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter changes."""

    name: str  # for error messages
    matrices: Mapping[str, LowRank] = field(default_factory=dict)  # by the name of the model's tensor
    directions: Mapping[int, str] = field(default_factory=dict)  # tensors that are added after layers, by the layer


@dataclass(frozen=True, slots=True)
class StackPart:
    """Where a tensor of an adapter is in a stack."""

    adapter: int  # index of the adapter
    name: str  # of its tensor
    start: int  # along the axis of the stack


@dataclass(frozen=True, slots=True)
class Stack:
    """A tensor that tensors of adapters are joined to; where no part is, it is 0."""

    name: str
    shape: Shape
    axis: int  # along which the parts follow one another: -2 or -1
    parts: tuple[StackPart, ...]


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A graph with adapters.

    A batch must have a number for each of ``scales``: the factor, multiplied by the strength of the adapter in the
    token's request.
    """

    graph: Graph
    stacks: tuple[Stack, ...]  # the tensors that the graph needs besides those of the model
    scales: Scales  # the adapter and the factor; (−1, 0) for padding


def adapt(graph: Graph, adapters: Sequence[Adapter], shapes: Mapping[str, Shape]) -> Adaptation:
    """Return a graph that computes the same as ``graph`` if all scales are 0.

    Parameters
    ----------
    graph : Graph
        The model's graph. It is not modified.
    adapters : sequence of Adapter
        The adapters. One at least must change something.
    shapes : mapping of str to tuple of int
        All tensors of the model file and their shapes.

    Raises
    ------
    GraphError
        An adapter does not fit the model; the message names the adapter, the tensor and the shapes.
    """
    _check_shapes(adapters, shapes)
    # twice, because the operator that provides the scales has their number, which is known in the end
    draft = _Writer(graph, adapters, shapes, _MANY)
    rewrite(graph, draft.change)
    _check_all_used(adapters, draft)
    writer = _Writer(graph, adapters, shapes, len(draft.scales))
    changed = rewrite(graph, writer.change)
    return Adaptation(changed, tuple(writer.stacks.values()), tuple(writer.scales))


class _Writer:
    """Replaces operators, and collects the stacks and the scales that the new ones need."""

    def __init__(self, graph: Graph, adapters: Sequence[Adapter], shapes: Mapping[str, Shape], n_scales: int) -> None:
        self._adapters, self._shapes = adapters, shapes
        self.stacks: dict[str, Stack] = {}
        self.scales: list[tuple[int, float]] = []
        self.used: set[tuple[int, str | int]] = set()  # adapters with the names of tensors and the numbers of layers
        self._token_scales = TokenScales(n_scales)
        self._places: dict[Scales, int] = {}  # where some scales are among all of them
        self._reduced: dict[tuple[Value, Names], Value] = {}  # scaled products with stacks of A
        self._groups = self._find_groups(graph)

    def _find_groups(self, graph: Graph) -> dict[str, Names]:
        """Return, for each matrix, those that are multiplied with the same input, and only with that one."""
        inputs: dict[str, dict[Value, None]] = {}
        for value in graph:
            if isinstance(value, Linear) and len(value.weight.shape) == 2 and self._changes(name := self._name(value)):
                inputs.setdefault(name, {})[value.x] = None
        groups: dict[Value, Names] = {}
        for name, found in inputs.items():
            if len(found) == 1:
                (x,) = found
                groups[x] = (*groups.get(x, ()), name)
        return {name: group for group in groups.values() for name in group}

    def change(self, value: Value) -> Value:
        """Return the operator with what adapters add to its result."""
        match value:
            case EmbeddingLookup() if value.weight.name == _EMBEDDING and self._changes(name := _EMBEDDING):
                first = self._stack((name,), (self._shapes[name][0], self._size(name)), -1, A)
                reduced = self._scaled(EmbeddingLookup(value.ids, first), (name,))
                return Add(value, Linear(reduced, self._second(name, (value.shape[0], self._size(name)))))
            case Linear() | ExpertLinear() if self._changes(name := self._name(value)):
                shape = self._matrix_shape(name)
                if len(shape) != len(value.weight.shape):
                    raise GraphError(f"{name!r} of shape {shape} cannot be changed: it is used as {value.weight.shape}")
                second = _rows_of(self._second(name, (*shape[:-1], self._size(name))), value.weight)
                reduced = self._reduce(value, name)
                if isinstance(value, ExpertLinear):
                    return Add(value, ExpertLinear(reduced, value.chosen, second))
                return Add(value, Linear(reduced, second))
            case LayerOutput() if any(value.layer in one.directions for one in self._adapters):
                return replace(value, x=Add(value.x, self._direction(value)))
        return value

    def _name(self, value: Product | EmbeddingLookup) -> str:
        """Return the name under which adapters change the weight of an operator.

        The output matrix has its own name, even if it is the embedding matrix.
        """
        name = value.weight.name
        is_tied = name == _EMBEDDING and isinstance(value, Linear) and _OUTPUT not in self._shapes
        return _OUTPUT if is_tied else name

    def _changes(self, name: str) -> list[tuple[int, LowRank]]:
        """Return the adapters that change a tensor, by their index, and how."""
        return [(i, one.matrices[name]) for i, one in enumerate(self._adapters) if name in one.matrices]

    def _matrix_shape(self, name: str) -> Shape:
        return self._shapes.get(name) or self._shapes[_EMBEDDING]

    # --- the two factors

    def _reduce(self, value: Product, name: str) -> Value:
        """Return ``s · (A x)`` for a matrix, with zeros for the padding of the rank."""
        weight = value.weight
        names = self._groups.get(name, (name,)) if len(weight.shape) == 2 else (name,)
        if (value.x, names) not in self._reduced:
            *front, _, n_in = self._matrix_shape(name)
            first = self._stack(names, (*front, sum(map(self._size, names)), n_in), -2, A)
            if isinstance(value, ExpertLinear):
                product: Value = ExpertLinear(value.x, value.chosen, first)
            else:
                product = Linear(value.x, _rows_of(first, weight) if front else first)
            self._reduced[value.x, names] = self._scaled(product, names)

        product = self._reduced[value.x, names]
        if len(names) == 1:
            return product
        start = sum(self._size(one) for one in names[: names.index(name)])
        return Slice(product, start, start + self._size(name))

    def _second(self, name: str, shape: Shape) -> Weight:
        return self._stack((name,), shape, -1, B)

    def _stack(self, names: Names, shape: Shape, axis: int, suffix: str) -> Weight:
        """Return a weight in which the factors that adapters have for some matrices follow one another."""
        parts, start = [], 0
        for one in names:
            at = start
            for adapter, change in self._changes(one):
                parts.append(StackPart(adapter, one + suffix, at))
                self.used.add((adapter, one))
                at += change.rank
            start += self._size(one)
        name = "+".join(names) + suffix
        self.stacks[name] = Stack(name, shape, axis, tuple(parts))
        return Weight(name, shape)

    def _size(self, name: str) -> int:
        """Return the sum of the ranks of a tensor's changes, padded."""
        return _padded(sum(change.rank for _, change in self._changes(name)))

    # --- scales

    def _scaled(self, x: Value, names: Names) -> Value:
        """Return ``x`` with its last axis multiplied by the scales of the adapters that change some tensors."""
        scales: Scales = ()
        for name in names:
            own = [(i, change.factor) for i, change in self._changes(name) for _ in range(change.rank)]
            scales += _with_padding(own)
        factors = self._scales_of(scales)
        if x.shape == factors.shape:
            return Mul(x, factors)
        n = math.prod(x.shape[:-1])
        return Mul(x, Reshape(Repeat(Reshape(factors, (1, len(scales))), n), x.shape))

    def _scales_of(self, scales: Scales) -> Value:
        """Return a row of scales; equal ones are the same part of the batch's."""
        if scales not in self._places:
            self._places[scales] = len(self.scales)
            self.scales += scales
        start = self._places[scales]
        return Slice(self._token_scales, start, start + len(scales))

    # --- control vectors

    def _direction(self, value: LayerOutput) -> Value:
        """Return the sum of the directions of a layer, each multiplied by its scale."""
        adapters = enumerate(self._adapters)
        given = [(i, one.directions[value.layer]) for i, one in adapters if value.layer in one.directions]
        self.used.update((i, value.layer) for i, _ in given)
        scales = _with_padding([(i, 1.0) for i, _ in given])
        name, shape = f"blk.{value.layer}.directions", (*value.shape, len(scales))
        parts = tuple(StackPart(adapter, tensor, i) for i, (adapter, tensor) in enumerate(given))
        self.stacks[name] = Stack(name, shape, -1, parts)
        return Linear(self._scales_of(scales), Weight(name, shape))


def _padded(n: int) -> int:
    return -(-n // _MULTIPLE) * _MULTIPLE


def _with_padding(scales: Sequence[tuple[int, float]]) -> Scales:
    return (*scales, *[(-1, 0.0)] * (_padded(len(scales)) - len(scales)))


def _rows_of(stack: Weight, weight: Weight) -> Weight:
    """Return the rows of a stack that a weight has of its tensor."""
    return stack if weight.last is None else stack.rows(weight.first, weight.last)


def _check_shapes(adapters: Sequence[Adapter], shapes: Mapping[str, Shape]) -> None:
    """Raise GraphError for the first matrix of an adapter that the model lacks or that has another shape."""
    for adapter, name, change in _matrices(adapters):
        matrix = shapes.get(name) or (shapes.get(_EMBEDDING) if name == _OUTPUT else None)
        if matrix is None:
            raise GraphError(f"{adapter.name}: the model has no tensor {name!r}")
        if len(matrix) not in (2, 3):
            raise GraphError(f"{adapter.name}: {name!r} has shape {matrix}; adapters can only change matrices")
        *front, n_out, n_in = matrix
        a, b = (*front, change.rank, n_in), (*front, n_out, change.rank)
        if name == _EMBEDDING:
            a, b = (n_out, change.rank), (n_in, change.rank)
        if change.a != a or change.b != b:
            found = f"{change.a} and {change.b}"
            raise GraphError(
                f"{adapter.name}: the two factors for {name!r} have the shapes {found}; {a} and {b} would fit its "
                f"shape, {matrix}"
            )


def _check_all_used(adapters: Sequence[Adapter], writer: _Writer) -> None:
    """Raise GraphError for the first tensor that no operator could be changed with."""
    for i, adapter in enumerate(adapters):
        for name in adapter.matrices:
            if (i, name) not in writer.used:
                raise GraphError(f"{adapter.name}: {name!r} is not a matrix that the model multiplies with")
        for layer in adapter.directions:
            if (i, layer) not in writer.used:
                raise GraphError(f"{adapter.name}: the model has no layer {layer}")


def _matrices(adapters: Sequence[Adapter]) -> Iterator[tuple[Adapter, str, LowRank]]:
    for adapter in adapters:
        for name, change in adapter.matrices.items():
            yield adapter, name, change
