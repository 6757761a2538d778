"""Describes an ONNX model beside the graph that it was made of: what each operator became."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from llamafw import graph as g
from llamafw_backends.onnx.lowering import Lowering


def describe_nodes(lowering: Lowering) -> str:
    """Return a line for each operator of a lowered graph, and how many nodes of each kind the model has.

    A line has the operator's number, as ``llamafw graph`` prints it, the shape of a row, the operator, the nodes that
    it became, and, where there is a choice of nodes, what was chosen and why.
    """
    left = {node.name for node in lowering.builder.nodes}
    lines = []
    for number, value in enumerate(lowering.context.graph):
        nodes = [node.op_type for node in lowering.nodes[value] if node.name in left]
        became = _counted(nodes) or _without_nodes(value, lowering)
        choice = f"  ({lowering.chosen[value]})" if value in lowering.chosen else ""
        shape = "×".join(map(str, value.shape)) or "1"
        lines.append(f"%{number:<4} {shape:>10}  {type(value).__name__:<16} → {became}{choice}")
    total = Counter(node.op_type for node in lowering.builder.nodes)
    counts = [f"{count:6}  {kind}" for kind, count in total.most_common()]
    return "\n".join([*lines, "", f"{total.total():6}  nodes", *counts]) + "\n"


def _counted(kinds: Iterable[str]) -> str:
    """Return kinds of nodes in the order in which they appear first, each with its number if it is above 1."""
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in Counter(kinds).items())


def _without_nodes(value: g.Value, lowering: Lowering) -> str:
    """Return what an operator without nodes is in the model."""
    if isinstance(value, g.Input) or lowering.of(value) in lowering.builder.input_names:
        return "an input"
    return "no nodes"
