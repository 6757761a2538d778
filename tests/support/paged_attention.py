"""Lets the CPU run PagedAttention, for which ONNX Runtime has a kernel on GPUs only: as standard operators.

The nodes of a model become calls of functions in the model, whose attributes are constants. Not for speed: each token
gets a copy of all positions of its slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from llamafw_backends.onnx import captured_steps, placement
from llamafw_backends.onnx.block_table import BLOCK
from llamafw_backends.onnx.model_builder import OPSET, ModelBuilder

DOMAIN = "test"
INPUTS = ("q", "k", "v", "key_cache", "value_cache", "starts", "past", "table", "", "", "", "sinks")


@dataclass
class Body:
    """The nodes of a function."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __call__(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        return self("Constant", value=numpy_helper.from_array(np.array(value, dtype)))


def make_function(name: str, dtype: Any, options: dict[str, Any], *, has_sinks: bool) -> onnx.FunctionProto:
    """Return a function that computes what a node with these attributes does."""
    n_head, n_head_kv = options["num_heads"], options["kv_num_heads"]
    n_group, b = n_head // n_head_kv, Body()
    starts, past, table = (b("Cast", one, to=onnx.TensorProto.INT64) for one in ("starts", "past", "table"))
    n = b("Shape", "q", start=0, end=1)
    tokens = b("Range", b.constant(0), b("Squeeze", n), b.constant(1))
    ends = b("Slice", starts, b.constant([1]), b.constant([2**31]), b.constant([0]))
    is_later = b("GreaterOrEqual", b("Unsqueeze", tokens, b.constant([1])), b("Unsqueeze", ends, b.constant([0])))
    row = b("ReduceSum", b("Cast", is_later, to=onnx.TensorProto.INT64), b.constant([1]), keepdims=0)
    position = b("Sub", b("Add", b("Gather", past, row), tokens), b("Gather", starts, row))

    size, one = b.constant(BLOCK), b.constant([1])
    column = b("Div", position, size)
    place = b("Concat", b("Unsqueeze", row, one), b("Unsqueeze", column, one), axis=1)
    block = b("GatherND", table, place)
    indices = b("Concat", b("Unsqueeze", block, one), b("Unsqueeze", b("Mod", position, size), one), axis=1)
    read = []
    for rows, cache in (("k", "key_cache"), ("v", "value_cache")):
        heads = b("Reshape", rows, b.constant([0, n_head_kv, -1]))
        b("ScatterND", cache, indices, heads, output=f"new_{cache}")
        blocks = b("Gather", f"new_{cache}", table)  # (n_active, n_columns, BLOCK, n_head_kv, size)
        joined = b("Reshape", blocks, b("Concat", b.constant([0, -1]), b("Shape", blocks, start=3), axis=0))
        read.append(b("Transpose", b("Gather", joined, row), perm=[0, 2, 1, 3]))  # (n, n_head_kv, n_positions, size)
    keys, values = read

    q = b("Reshape", "q", b("Concat", n, b.constant([n_head_kv, n_group, -1]), axis=0))
    scores = b("MatMul", q, b("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = b("Mul", scores, b.constant(options["scale"], dtype))
    if "softcap" in options:
        cap = b.constant(options["softcap"], dtype)
        scores = b("Mul", b("Tanh", b("Div", scores, cap)), cap)
    others = b("Range", b.constant(0), b("Squeeze", b("Shape", keys, start=2, end=3)), b.constant(1))
    distance = b("Sub", b("Unsqueeze", position, one), b("Unsqueeze", others, b.constant([0])))
    is_seen = b("GreaterOrEqual", distance, b.constant(0))
    if "local_window_size" in options:
        is_seen = b("And", is_seen, b("Less", distance, b.constant(options["local_window_size"])))
    is_seen = b("Unsqueeze", is_seen, b.constant([1, 2]))
    exponentials = b("Where", is_seen, b("Exp", scores), b.constant(0, dtype))
    total = b("ReduceSum", exponentials, b.constant([-1]), keepdims=1)
    if has_sinks:
        total = b("Add", total, b("Exp", b("Reshape", "sinks", b.constant([1, n_head_kv, n_group, 1]))))
    seen_values = b("Where", b("Reshape", is_seen, b.constant([0, 1, -1, 1])), values, b.constant(0, dtype))
    sums = b("MatMul", b("Div", exponentials, total), seen_values)
    b("Reshape", sums, b.constant([0, -1]), output="y")

    inputs = [one or f"unused{i}" for i, one in enumerate(INPUTS)] + [f"unused{i}" for i in range(12, 17)]
    outputs = ["y", "new_key_cache", "new_value_cache"]
    return helper.make_function(DOMAIN, name, inputs, outputs, b.nodes, [helper.make_opsetid("", OPSET)])


def with_functions(model: onnx.ModelProto, dtype: Any) -> onnx.ModelProto:
    """Make the model's nodes calls of functions."""
    functions: dict[str, onnx.FunctionProto] = {}
    for node in model.graph.node:
        if node.op_type != "PagedAttention":
            continue
        options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        has_sinks = len(node.input) > 11 and bool(node.input[11])
        key = f"{sorted(options.items())} {has_sinks}"
        name = f"PagedAttention{list(functions).index(key) if key in functions else len(functions)}"
        functions.setdefault(key, make_function(name, dtype, options, has_sinks=has_sinks))
        node.op_type, node.domain = name, DOMAIN
        del node.attribute[:]
    if functions:
        model.functions.extend(functions.values())
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def emulate(monkeypatch: pytest.MonkeyPatch, *, captures: bool = True, may_fail: bool = False) -> None:
    """Let the CPU run PagedAttention, and, unless told otherwise, the steps that a GPU captures.

    If steps may not fail, errors in them are those of the backend; otherwise it goes on without them.
    """
    build = ModelBuilder.build

    def patched(self: ModelBuilder, *args: Any) -> onnx.ModelProto:
        return with_functions(build(self, *args), self.float_type)

    monkeypatch.setattr(ModelBuilder, "build", patched)
    monkeypatch.setattr(placement, "_SUPPORT", {})
    if not may_fail:
        monkeypatch.setattr(captured_steps, "is_out_of_memory", lambda error: True)
    if captures:
        monkeypatch.setitem(captured_steps.DEVICES, "cpu", {})
