"""Blocks that many architectures share: functions of operators."""

from __future__ import annotations

from llamafw.graph.builders import activation, linear
from llamafw.graph.rows import Function
from llamafw.graph.values import Value
from llamafw.graph.weights import Parameter, Parameters


def gated_ffn(x: Value, layer: Parameters, function: Function = "silu") -> Value:
    """Return a gated feed-forward block: ``down (f(gate x) · up x)`` (arXiv:2002.05202); SwiGLU with ``silu``."""
    gated = activation(linear(x, layer["ffn_gate"]), function) * linear(x, layer["ffn_up"])
    return linear(gated, layer["ffn_down"])


def output_matrix(parameters: Parameters) -> Parameter:
    """Return the output matrix, which is the embedding if the file has none."""
    return parameters["output" if "output" in parameters else "token_embd"]
