"""Rewrites a graph so that its rotations use grouped positions; see `grouped_positions`."""

from __future__ import annotations

from dataclasses import replace

from llamafw.graph.attention import Attention, Cache, Rope, key_rope
from llamafw.graph.grouped_positions import GroupedPositions
from llamafw.graph.model import Graph
from llamafw.graph.rewrite import rewrite
from llamafw.graph.rows import EmbeddingLookup
from llamafw.graph.values import POSITIONS, GraphError, Value


def self_extend(graph: Graph, factor: int, width: int) -> Graph:
    """Return a graph with the positions of Self-Extend.

    Parameters
    ----------
    graph : Graph
        The model's graph. It is not modified.
    factor, width : int
        Tokens per group, and per window.

    Raises
    ------
    GraphError
        The model's positions cannot be grouped, or the width is not a multiple of the factor.
    """
    grouped = GroupedPositions(factor, width)
    if not graph.causal:
        raise _refuse("it is an encoder")
    for value in graph:
        _check(value)
    if not any(isinstance(value, Rope) for value in graph):
        raise _refuse("it has no rotary positions (RoPE)")
    return rewrite(graph, lambda value: replace(value, positions=grouped) if isinstance(value, Rope) else value)


def _check(value: Value) -> None:
    """Raise GraphError if the result of an operator depends on positions in a way that grouping would change."""
    if value.state_shape:
        raise _refuse("it has recurrent layers")
    match value:
        case EmbeddingLookup() if value.ids is POSITIONS:
            raise _refuse("its positions are learned")
        case Rope() if value.rotation.sections:
            raise _refuse("its positions have several dimensions (M-RoPE)")
        case Rope() if value.positions is not POSITIONS:
            raise _refuse("its positions are computed")
        case Attention() if value.window is not None:
            raise _refuse("its attention has windows")
        case Attention() if value.alibi or value.position_bias is not None:
            raise _refuse("its attention depends on distances (ALiBi or a bias)")
        case Attention() if value.temperature is not None:
            raise _refuse("the scale of its attention depends on positions")
        case Cache():
            key_rope(value.k)


def _refuse(reason: str) -> GraphError:
    return GraphError(f"the positions of this model cannot be grouped: {reason}")
