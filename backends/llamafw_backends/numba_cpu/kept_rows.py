"""Let a step also return the hidden states of all tokens, not only those of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamafw import graph as g


@dataclass(frozen=True, slots=True, eq=False)
class KeptRows(g.Value):
    """Its input, whose rows are also copied to where the batch returns the hidden states of all tokens."""

    x: g.Value

    def infer_shape(self) -> g.Shape:
        """Return the shape of the input."""
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> Any:
        """Return the input."""
        return inputs["x"]


def keep_hidden(graph: g.Graph) -> g.Graph:
    """Return a graph that computes the same and keeps the hidden states of all tokens."""
    return g.rewrite(graph, lambda value: KeptRows(value) if value is graph.hidden else value)
