"""A whole model as a graph: its outputs, its values in order, and the state of each slot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from llamafw.graph.attention import Attention, Cache, KeyValue
from llamafw.graph.rows import LayerOutput
from llamafw.graph.values import Shape, Value


@dataclass(frozen=True, slots=True)
class Graph:
    """A model: the values that a backend computes for every token."""

    hidden: Value  # (n_embd,) after the output norm
    logits: Value | None  # (n_vocab,); None: the model embeds texts and cannot generate
    n_ctx_train: int  # context length used in training, in positions

    @property
    def n_vocab(self) -> int:
        """Logits per token; 0 if the model has none."""
        return 0 if self.logits is None else self.logits.shape[0]

    @property
    def n_embd(self) -> int:
        """Size of a hidden state."""
        return self.hidden.shape[0]

    @property
    def causal(self) -> bool:
        """Whether a token depends only on itself and the tokens before it.

        If not, a text must be one batch.
        """
        return not any(isinstance(value, KeyValue) for value in self)

    def __iter__(self) -> Iterator[Value]:
        """Yield each value once, after the values that it is computed from."""
        seen: set[int] = set()
        todo = [(value, False) for value in (self.logits, self.hidden) if value is not None]
        while todo:
            value, is_ready = todo.pop()
            if id(value) in seen:
                continue
            if is_ready:
                seen.add(id(value))
                yield value
            else:
                todo.append((value, True))
                todo += [(one, False) for one in reversed(value.inputs())]


def layer_of(graph: Graph, value: Value) -> int | None:
    """Return the layer that a value of a graph belongs to; None if it comes after the last layer."""
    values = iter(graph)
    for other in values:
        if other is value:
            break
    return next((other.layer for other in values if isinstance(other, LayerOutput)), None)


@dataclass(frozen=True, slots=True)
class State:
    """What a slot keeps for one operator."""

    value: Value  # a `Cache`, or an operator with a state of fixed size
    per_position: Shape  # shape of the numbers kept for each position; () if none
    fixed: Shape  # shape of the numbers kept for the whole text, regardless of its length; () if none
    window: int | None = None  # how many of the last positions are needed; None: all


def states(graph: Graph) -> list[State]:
    """Return what a slot keeps, in the order of the graph's values."""
    values, windows = list(graph), defaultdict[Value, set[int | None]](set)
    for value in values:
        if isinstance(value, Attention):
            windows[value.past].add(value.window)

    found = []
    for value in values:
        if isinstance(value, Cache):
            sizes = {size for size in windows[value] if size is not None}
            found.append(State(value, value.shape, (), None if None in windows[value] else max(sizes, default=None)))
        elif value.state_shape:
            found.append(State(value, (), value.state_shape))
    return found
