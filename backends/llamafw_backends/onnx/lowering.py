"""Lowers a graph to an ONNX model: each operator becomes nodes for packed rows, ``(n_tokens, *shape)``.

The functions that lower operators are in `row_lowering`, `attention_lowering`, `recurrent_lowering` and
`expert_lowering`; those of plugins are found by the name of the backend, ``onnx``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
    grows: bool  # True: keys or values, (n_slots, n_head, n_positions, size)
    value: g.Value  # the cache or the operator that it belongs to
    rotation: g.Rotation | None = None  # that keys have, so that they can be moved to other positions

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
    states : list of StateTensor
        What slots keep.
    lookups : dict of str to EmbeddingLookup
        The embeddings that are looked up before each run, by the names of the model's inputs.
    """

    context: BackendContext
    builder: ModelBuilder
    tensors: Tensors
    support: Support
    n_ctx: int
    cache_types: tuple[np.dtype[Any], np.dtype[Any]]
    states: list[StateTensor] = field(default_factory=list)
    lookups: dict[str, g.EmbeddingLookup] = field(default_factory=dict)
    rotations: dict[str, g.Rotation] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)  # what operators became, by their names in the graph
    memo: dict[Any, Any] = field(default_factory=dict)  # what several operators share, such as masks
    _names: dict[g.Value, str] = field(default_factory=dict)

    def of(self, value: g.Value) -> str:
        """Return the name of the rows of a value that has been lowered."""
        return self._names[value]

    def set(self, value: g.Value, name: str) -> None:
        """Set the name of a value's rows."""
        self._names[value] = name

    def lower(self, value: g.Value) -> str:
        """Lower an operator, whose inputs have been lowered."""
        function = LOWERINGS.get(type(value)) or self.context.implementation("onnx", value)
        name = function(value, self)
        self._names[value] = name
        return name

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
        """Return rows in another shape, ``(n_tokens, *shape)``."""
        return str(self.builder.node("Reshape", x, self.builder.ints(-1, *shape)))

    def state(self, tensor: StateTensor, dims: tuple[int | str, ...]) -> str:
        """Add a state; return the name of its input.  ``dims`` is the shape of the whole tensor."""
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


def _scope(layer: int | None) -> str:
    """Return the start of the names of a layer's nodes."""
    return "/model" if layer is None else f"/model/layers.{layer}"


def _early(values: list[g.Value]) -> set[g.Value]:
    """Return the values of all tokens: the inputs, and those before the last operator along the text."""
    early = {value for value in values if isinstance(value, g.Input | g.EmbeddingLookup)}
    for value in reversed(values):
        if value in early or value.has_state or isinstance(value, g.Attention | g.KeyValue):
            early.update((value, *value.inputs()))
    return early


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
