"""Blocks of operators that many architectures share."""

from __future__ import annotations

from llamafw.graph.builders import activation, linear
from llamafw.graph.rows import Function
from llamafw.graph.values import Value
from llamafw.graph.weights import Parameter, Parameters


def gated_ffn(x: Value, layer: Parameters, function: Function = "silu") -> Value:
    """Return the gated feed-forward block ``down (f(gate x) · up x)``, SwiGLU by default (arXiv:2002.05202)."""
    gated = activation(linear(x, layer["ffn_gate"]), function) * linear(x, layer["ffn_up"])
    return linear(gated, layer["ffn_down"])


def output_matrix(parameters: Parameters) -> Parameter:
    """Return the output matrix, or the embedding matrix if the file has no output matrix."""
    return parameters["output" if "output" in parameters else "token_embd"]
