"""Describes the ONNX model of a graph as text, for ``llamafw graph --step --backend onnx``."""

from __future__ import annotations

from collections import Counter

from llamafw import BackendContext
from llamafw_backends.onnx.backend import lower
from llamafw_backends.onnx.lowering import Lowering
from llamafw_backends.onnx.placement import choose_device, support_of


def describe_step(context: BackendContext) -> str:
    """Return the device, the operators with their number, and the nodes, one per line."""
    device = choose_device(context)
    lowering = lower(context, support_of(device), context.options.n_ctx or context.graph.n_ctx_train)
    head = f"{device}, computes in {device.float_type}"
    return f"{head}\n\n{list_nodes(lowering)}"


def list_nodes(lowering: Lowering) -> str:
    """Return the operators with their number, and the nodes with their inputs, one per line."""
    nodes = lowering.builder.nodes
    kinds = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes)
    counts = [f"{kind} × {n}" for kind, n in kinds.most_common()]
    lines = [f"{node.name}: {node.op_type}({', '.join(node.input)})" for node in nodes]
    return "\n".join([f"{len(nodes)} nodes: {', '.join(counts)}", "", *lines])
