"""Describes the ONNX model of a graph as text, for ``llamafw graph --step --backend onnx``."""

from __future__ import annotations

from llamafw import BackendContext
from llamafw_backends.onnx.backend import lower
from llamafw_backends.onnx.describe import describe_nodes
from llamafw_backends.onnx.placement import choose_device, support_of


def describe_step(context: BackendContext) -> str:
    """Return the device, what each operator became, and how many nodes of each kind the model has."""
    device = choose_device(context)
    lowering = lower(context, support_of(device), context.options.n_ctx or context.graph.n_ctx_train)
    return f"{device}, computes in {device.float_type}\n\n{describe_nodes(lowering)}"
