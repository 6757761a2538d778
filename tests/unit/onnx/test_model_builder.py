"""Models have only what a node reads."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.sessions import make_options, open_session

F32 = np.dtype(np.float32)
LARGE = np.arange(1024, dtype=np.float32)


def test_tensors_that_no_node_reads_are_removed() -> None:
    b = ModelBuilder(F32)
    x = b.input("x", F32, [len(LARGE)])
    b.node("Add", x, b.weight("unread", LARGE))
    b.node("Add", x, b.floats(3.0))
    b.node("Add", x, b.weight("read", 2 * LARGE), outputs=["y"])
    b.output("y", F32, [len(LARGE)])
    b.remove_unread()

    assert list(b.weights) == ["read"]
    model = b.build()
    assert [tensor.name for tensor in model.graph.initializer] == ["read"]
    session = open_session(model.SerializeToString(), make_options(), [("CPUExecutionProvider", {})], b.weights)
    assert_array_equal(session.run(None, {"x": LARGE})[0], 3 * LARGE)


def test_removed_constant_can_be_added_again() -> None:
    b = ModelBuilder(F32)
    x = b.input("x", F32, [1])
    b.node("Add", x, b.floats(3.0))
    b.node("Add", x, b.floats(1.0), outputs=["y"])
    b.output("y", F32, [1])
    b.remove_unread()

    b.node("Add", b.node("Mul", "y", b.floats(2.0)), b.floats(3.0), outputs=["z"])
    b.output("z", F32, [1])
    session = open_session(b.build().SerializeToString(), make_options(), [("CPUExecutionProvider", {})])
    assert [float(one[0]) for one in session.run(None, {"x": np.ones(1, np.float32)})] == [2, 7]


def test_tensors_that_a_graph_inside_a_node_reads_stay() -> None:
    b = ModelBuilder(F32)
    body = b.inner("Scan")
    row = body.input(f"{body.prefix}row", F32, None)
    y = body.node("Add", row, b.weight("read inside", LARGE))
    body.output(y, F32, None)
    x = b.input("x", F32, ["n", len(LARGE)])
    b.node("Scan", x, outputs=["y"], body=body.subgraph([row]), num_scan_inputs=1)
    b.output("y", F32, ["n", len(LARGE)])
    b.remove_unread()

    assert list(b.weights) == ["read inside"]
    session = open_session(b.build().SerializeToString(), make_options(), [("CPUExecutionProvider", {})], b.weights)
    assert_array_equal(session.run(None, {"x": np.stack([LARGE, -LARGE])})[0], [2 * LARGE, 0 * LARGE])
