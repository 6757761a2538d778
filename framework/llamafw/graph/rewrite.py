"""Change the operators of a graph that an architecture has built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llamafw.graph.model import Graph
from llamafw.graph.values import Value


def rewrite(graph: Graph, change: Callable[[Value], Value]) -> Graph:
    """Return a graph in which each operator is replaced by what ``change`` returns for it.

    Parameters
    ----------
    graph : Graph
        The graph. It is not modified. Its `Graph.prediction` stays as it is.
    change : callable
        Called once with each operator, in the order of the graph. The operator's inputs are those of the new graph. If
        none of them is new, it is the operator of the old graph itself. It may be returned as it is, or changed with
        `dataclasses.replace`, or replaced by another operator, which may have further ones as its inputs.

    Raises
    ------
    GraphError
        The new operators do not fit together.
    """
    changed: dict[Value, Value] = {}
    for value in graph:
        operands: dict[str, Any] = {
            name: tuple(changed[one] for one in operand) if isinstance(operand, tuple) else changed[operand]
            for name, operand in value.operands()
        }
        is_new = any(changed[one] is not one for one in value.inputs())
        changed[value] = change(replace(value, **operands) if is_new else value)
    logits = None if graph.logits is None else changed[graph.logits]
    return replace(graph, hidden=changed[graph.hidden], logits=logits)
