"""Builds ONNX models node by node.

Large weights are not copied into the model: they are handed to the session as they are in memory, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, MICROSOFT_OPSET, IR_VERSION = 23, 1, 11
MICROSOFT = "com.microsoft"
LARGE = 1024  # bytes; smaller tensors are part of the model

Array = npt.NDArray[Any]
Dimensions = Sequence[int | str]
"""The shape of an input or output; a text is a size that differs from run to run."""


@dataclass(slots=True)
class ModelBuilder:
    """An ONNX model that is being built.

    Attributes
    ----------
    float_type : numpy type
        The type of activations: float32, or float16 on GPUs.
    weights : dict of str to array
        The weights outside the model.
    scope : str
        The start of the names of new nodes, such as ``/model/layers.0``.
    prefix : str
        The start of the names of constants; different for each graph inside a node.
    """

    float_type: np.dtype[Any]
    weights: dict[str, Array] = field(default_factory=dict)
    scope: str = "/model"
    prefix: str = ""
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _inputs: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)
    _outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _constants: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    shared: dict[Any, str] = field(default_factory=dict)
    _used: dict[str, int] = field(default_factory=dict)

    def node(self, op: str, *inputs: str, n_outputs: int = 1, outputs: Sequence[str] = (), **attributes: Any) -> Any:
        """Add a node; return the name of its output, or a tuple of names if it has several.

        Parameters
        ----------
        op : str
            The operator, with ``com.microsoft.`` before it if it is not a standard one.
        *inputs : str
            Names; "" for an optional input that is left out.
        n_outputs : int
            How many outputs it has.
        outputs : sequence of str, optional
            The names of the outputs, if they matter.
        **attributes
            The attributes; None leaves one out.
        """
        domain, _, kind = op.rpartition(".")
        name = self._unused(f"{self.scope}/{kind}")
        if not outputs:
            outputs = [f"{name}/output_{i}" for i in range(n_outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **given))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Return the name of a constant; equal ones are one."""
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        name = self._constants.setdefault(key, f"{self.prefix}constant.{len(self._constants)}")
        if name not in self._tensors:
            self._add_tensor(name, array)
        return name

    def floats(self, numbers: Any) -> str:
        """Return the name of a constant in the type of the activations."""
        return self.constant(numbers, self.float_type)

    def ints(self, *numbers: int) -> str:
        """Return the name of a constant vector of int64."""
        return self.constant(numbers, np.int64)

    def weight(self, name: str, array: Array) -> str:
        """Add a weight with a name of its own; return the name."""
        if name not in self._tensors:
            self._add_tensor(name, array)
        return name

    def has_weight(self, name: str) -> bool:
        """Return whether a weight of this name has been added."""
        return name in self._tensors

    def input(self, name: str, dtype: Any, shape: Dimensions | None) -> str:
        """Declare an input unless it is declared already; return its name.

        Without a shape, the shape is that of what the graph around it provides.
        """
        if name not in self._inputs:
            self._inputs[name] = helper.make_tensor_value_info(name, _onnx_type(dtype), shape)
        return name

    def output(self, name: str, dtype: Any, shape: Dimensions | None) -> None:
        """Declare an output, which a node computes."""
        self._outputs.append(helper.make_tensor_value_info(name, _onnx_type(dtype), shape))

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs."""
        return list(self._inputs)

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes, in order."""
        return self._nodes

    def remove_unread(self) -> None:
        """Remove nodes of which no output is read, and then constants and weights that no node reads."""
        read = {output.name for output in self._outputs}
        kept = []
        for node in reversed(self._nodes):
            if read.intersection(node.output):
                kept.append(node)
                read.update(_names_read(node))
        self._nodes = kept[::-1]
        self._tensors = {name: tensor for name, tensor in self._tensors.items() if name in read}
        self.weights = {name: array for name, array in self.weights.items() if name in read}

    def subgraph(self, inputs: Sequence[str]) -> onnx.GraphProto:
        """Return the nodes as a graph inside a node, whose inputs are in the given order."""
        order = [self._inputs[name] for name in inputs]
        return helper.make_graph(self._nodes, "step", order, self._outputs, list(self._tensors.values()))

    def build(self, locations: Mapping[str, tuple[str, int]] | None = None) -> onnx.ModelProto:
        """Return the model.

        Parameters
        ----------
        locations : mapping of str to (str, int), optional
            The file and the offset in bytes of each weight. Without it, the session must be given the weights.
        """
        for name in self.weights:
            place = ("weights", 0) if locations is None else locations[name]
            _set_location(self._tensors[name], *place, self.weights[name].nbytes)
        graph = helper.make_graph(
            self._nodes, "model", list(self._inputs.values()), self._outputs, list(self._tensors.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="llamafw")

    def _add_tensor(self, name: str, array: Array) -> None:
        array = np.ascontiguousarray(array).reshape(np.shape(array))  # ascontiguousarray makes vectors of scalars
        if array.nbytes < LARGE:
            self._tensors[name] = numpy_helper.from_array(array, name)
            return
        self.weights[name] = array
        self._tensors[name] = TensorProto(
            name=name,
            data_type=_onnx_type(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )

    def inner(self, kind: str) -> ModelBuilder:
        """Return a builder for a graph inside a node; its names are different from all others."""
        name = self._unused(f"{self.scope}/{kind}.graph")
        return ModelBuilder(self.float_type, scope=name, prefix=f"{name}/")

    def _unused(self, name: str) -> str:
        """Return a name that no node has: with a number after it, except the first."""
        n = self._used[name] = self._used.get(name, 0) + 1
        return name if n == 1 else f"{name}_{n - 1}"


def _names_read(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, in the graphs inside it too."""
    graphs = (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH)
    return {*node.input, *(name for graph in graphs for inner in graph.node for name in _names_read(inner))}


def _onnx_type(dtype: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _set_location(tensor: onnx.TensorProto, file: str, offset: int, size: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", offset), ("length", size)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
