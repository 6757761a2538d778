"""Lowers a graph to an ONNX model: each operator becomes nodes for packed rows, ``(n_tokens, *shape)``.

The functions that lower operators are in `row_lowering`, `attention_lowering`, `recurrent_lowering` and
`expert_lowering`; those of plugins are found by the name of the backend, ``onnx``. Several operators can become one
node: the one that is lowered first adds it and sets the names of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from llamafw import BackendContext
from llamafw import graph as g
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.support import Support
from llamafw_backends.onnx.tensors import Tensors

Lower = Callable[[Any, "Lowering"], str]
"""Adds the nodes of an operator, and returns the name of its rows."""

LOWERINGS: dict[type[g.Value], Lower] = {}
"""The built-in operators."""

INTEGERS = (g.TopK, g.Input)
"""Operators whose rows are integers."""


def lowers(*kinds: type[g.Value]) -> Callable[[Lower], Lower]:
    """Register a function that lowers these operators."""

    def register(function: Lower) -> Lower:
        LOWERINGS.update(dict.fromkeys(kinds, function))
        return function

    return register


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor on the device that keeps something of every slot.

    The model reads it as the input ``past`` and writes it, in place, as the output ``present``.
    """

    name: str
    shape: tuple[int, ...]  # of one slot; for keys and values without their positions: (n_head, size)
    dtype: np.dtype[Any]
    grows: bool  # True: keys or values, (n_slots, n_head, n_positions, size) or in blocks
    value: g.Value  # the cache or the operator that it belongs to
    rotation: g.Rotation | None = None  # that keys have, so that they can be moved to other positions
    is_paged: bool = False  # keys or values in blocks, (n_blocks, BLOCK, n_head, size); see `block_table`

    @property
    def past(self) -> str:
        """The name of the input."""
        return f"past.{self.name}"

    @property
    def present(self) -> str:
        """The name of the output."""
        return f"present.{self.name}"


@dataclass(slots=True)
class Lowering:
    """A graph on its way to an ONNX model.

    Attributes
    ----------
    context : BackendContext
        The model and its graph.
    builder : ModelBuilder
        The ONNX model so far.
    tensors : Tensors
        The weights of the file.
    support : Support
        What the provider can run.
    n_ctx : int
        Positions per slot.
    cache_types : (dtype, dtype)
        The types of keys and values in the cache.
    accuracy_level : int
        That of products with block-quantised matrices, see `code_products`.
    states : list of StateTensor
        What slots keep.
    lookups : dict of str to EmbeddingLookup
        The embeddings that are looked up before each run, by the names of the model's inputs.
    readers : dict of Value to list of Value
        The operators that read each value.
    early : set of Value
        The values of all tokens; the others are computed for the wanted rows only.
    nodes : dict of Value to list of NodeProto
        The nodes that each operator became; those that nothing reads are not in the model.
    chosen : dict of Value to str
        Where there is a choice of nodes: which one it is, and why it is not a better one.
    """

    context: BackendContext
    builder: ModelBuilder
    tensors: Tensors
    support: Support
    n_ctx: int
    cache_types: tuple[np.dtype[Any], np.dtype[Any]]
    accuracy_level: int = 0
    states: list[StateTensor] = field(default_factory=list)
    lookups: dict[str, g.EmbeddingLookup] = field(default_factory=dict)
    rotations: dict[str, g.Rotation] = field(default_factory=dict)
    readers: dict[g.Value, list[g.Value]] = field(default_factory=dict)
    early: set[g.Value] = field(default_factory=set)
    nodes: dict[g.Value, Sequence[NodeProto]] = field(default_factory=dict)
    chosen: dict[g.Value, str] = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict)  # what several operators share, such as masks
    _names: dict[g.Value, str] = field(default_factory=dict)
    _shapes: dict[str, g.Shape] = field(default_factory=dict)  # of one row, by the names of rows
    _sources: dict[str, str] = field(default_factory=dict)  # rows in another shape, by the names of those that have it

    def of(self, value: g.Value) -> str:
        """Return the name of the rows of a value that has been lowered."""
        return self._names[value]

    def set(self, value: g.Value, name: str) -> None:
        """Set the name of a value's rows."""
        self._names[value] = name
        self._shapes.setdefault(name, value.shape)

    def lower(self, value: g.Value) -> str:
        """Lower an operator, whose inputs have been lowered, unless another one has become a node for both."""
        if self.is_lowered(value):
            self.nodes[value] = []
            return self._names[value]
        function = LOWERINGS.get(type(value)) or self.context.implementation("onnx", value)
        before = len(self.builder.nodes)
        name = function(value, self)
        self.set(value, name)
        self.nodes[value] = self.builder.nodes[before:]
        return name

    def is_lowered(self, value: g.Value) -> bool:
        """Return whether a value has a name."""
        return value in self._names

    def is_together(self, one: g.Value, other: g.Value) -> bool:
        """Return whether both values are computed for the same tokens."""
        return (one in self.early) == (other in self.early)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what ``make`` returned for the key before, or call it."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def small_weight(self, weight: g.Weight) -> str:
        """Return the name of a weight in the type of the activations, such as that of a norm."""
        name = _weight_name(weight)
        if self.builder.has_weight(name):
            return name
        return self.builder.weight(name, self.tensors.floats(weight).astype(self.builder.float_type))

    def reshape(self, x: str, *shape: int) -> str:
        """Return rows in another shape, ``(n_tokens, *shape)``; several changes of shape are one."""
        x = self._sources.get(x, x)
        if self._shapes.get(x) == shape:
            return x
        y = str(self.builder.node("Reshape", x, self.builder.ints(-1, *shape)))
        self._sources[y], self._shapes[y] = x, shape
        return y

    def rows(self, x: str, *shape: int) -> str:
        """Say that ``x`` are rows of this shape, ``(n_tokens, *shape)``; return ``x``."""
        self._shapes[x] = shape
        return x

    def state(self, tensor: StateTensor, dims: tuple[int | str, ...]) -> str:
        """Add a state whose tensor has the shape ``dims``; return the name of its input."""
        self.states.append(tensor)
        name = self.builder.input(tensor.past, tensor.dtype, dims)
        self.builder.output(tensor.present, tensor.dtype, dims)
        return name


def lower_graph(lowering: Lowering) -> None:
    """Lower the whole graph: the model's outputs are ``hidden`` and ``logits``, for the wanted rows only.

    The operators that only matter for the wanted rows get those rows. ``rows`` are their indices in the batch, and
    ``logit_rows`` those among ``rows`` whose logits are wanted.
    """
    graph, b = lowering.context.graph, lowering.builder
    values = list(graph)
    early, layers = _early(values), _layers(values)
    lowering.early, lowering.readers = early, _readers(values)
    for value in values:
        if value in early:
            b.scope = _scope(layers[value])
            lowering.lower(value)

    rows = b.input("rows", np.int64, ["n_rows"])
    for value in _read_late(graph, values, early):
        lowering.set(value, b.node("Gather", lowering.of(value), rows, axis=0))
    for value in values:
        if value not in early:
            b.scope = "/lm_head" if value is graph.logits else _scope(layers[value])
            lowering.lower(value)
        if value is graph.hidden:
            _add_output(b, lowering.of(value), "hidden", graph.n_embd)
            if graph.logits is not None:
                wanted = b.input("logit_rows", np.int64, ["n_logits"])
                lowering.set(value, b.node("Gather", lowering.of(value), wanted, axis=0))
    if graph.logits is not None:
        _add_output(b, lowering.of(graph.logits), "logits", graph.n_vocab)
    b.remove_unread()


def _scope(layer: int | None) -> str:
    """Return the start of the names of a layer's nodes."""
    return "/model" if layer is None else f"/model/layers.{layer}"


def _early(values: list[g.Value]) -> set[g.Value]:
    """Return the values of all tokens: the inputs, and those before the last operator along the text."""
    inputs = g.Input | g.TokenScales | g.HiddenRows | g.EmbeddingLookup
    early: set[g.Value] = {value for value in values if isinstance(value, inputs)}
    for value in reversed(values):
        if value in early or value.has_state or isinstance(value, g.Attention | g.KeyValue):
            early.update((value, *value.inputs()))
    return early


def _readers(values: list[g.Value]) -> dict[g.Value, list[g.Value]]:
    """Return the operators that read each value."""
    readers: dict[g.Value, list[g.Value]] = {value: [] for value in values}
    for value in values:
        for operand in value.inputs():
            readers[operand].append(value)
    return readers


def _read_late(graph: g.Graph, values: list[g.Value], early: set[g.Value]) -> list[g.Value]:
    """Return the values of all tokens that are read for the wanted rows only."""
    readers = [value for value in values if value not in early]
    read = {one for value in readers for one in value.inputs()} | {graph.hidden}
    return [value for value in values if value in early and value in read]


def _layers(values: list[g.Value]) -> Mapping[g.Value, int | None]:
    """Return the layer of each value, as `llamafw.graph.layer_of` does."""
    layers: dict[g.Value, int | None] = {}
    layer: int | None = None
    for value in reversed(values):
        if isinstance(value, g.LayerOutput):
            layer = value.layer
        layers[value] = layer
    return layers


def _add_output(b: ModelBuilder, rows: str, name: str, size: int) -> None:
    """Make rows an output of the model, in float32."""
    b.node("Cast", rows, outputs=[name], to=1)  # 1: FLOAT
    b.output(name, np.float32, ["n_rows" if name == "hidden" else "n_logits", size])


def _weight_name(weight: g.Weight) -> str:
    """Return the name of a weight in the model; parts of a tensor have their rows in it."""
    return weight.name if weight.last is None else f"{weight.name}[{weight.first}:{weight.last}]"


def weight_name(weight: g.Weight, part: str = "") -> str:
    """Return the name of a weight, or of a part of its representation."""
    return _weight_name(weight) + (f".{part}" if part else "")
