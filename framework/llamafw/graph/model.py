"""A whole model as a graph: its outputs, its values in order, and the state of each slot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from llamafw.graph.attention import Attention, Cache, KeyValue
from llamafw.graph.rows import EmbeddingLookup, LayerOutput
from llamafw.graph.values import POSITIONS, TYPES, HiddenRows, Input, Shape, TokenScales, Value


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as a graph: what is computed for each token, and from what."""

    hidden: Value  # (n_embd,) after the output norm
    logits: Value | None  # (n_vocab,); None: the model embeds texts and cannot generate
    n_ctx_train: int  # context length used in training, in positions
    prediction: Graph | None = field(default=None, repr=False)
    """What predicts the token after the next one, of a token and the hidden state before it; see `prediction`."""

    @property
    def n_vocab(self) -> int:
        """Logits per token; 0 if the model has none."""
        return 0 if self.logits is None else self.logits.shape[0]

    @property
    def n_embd(self) -> int:
        """Size of a hidden state."""
        return self.hidden.shape[0]

    @property
    def n_scales(self) -> int:
        """Numbers that a batch must provide for each token; see `TokenScales`."""
        return next((value.n for value in self if isinstance(value, TokenScales)), 0)

    @property
    def n_hidden_rows(self) -> int:
        """Size of the hidden states that a batch must provide, see `HiddenRows`; 0 if it needs none."""
        return next((value.n for value in self if isinstance(value, HiddenRows)), 0)

    @property
    def causal(self) -> bool:
        """Whether a token depends only on itself and the tokens before it.

        If not, a text must be one batch.
        """
        return not any(isinstance(value, KeyValue) for value in self)

    def context_length(self, wanted: int) -> int:
        """Return how many positions a slot can have: ``wanted``, or the trained context if it is 0.

        Learned positions limit it to their number.
        """
        return min([wanted or self.n_ctx_train, *self._table_sizes(POSITIONS)])

    @property
    def n_types(self) -> int:
        """How many types of tokens the model tells apart."""
        return min(self._table_sizes(TYPES), default=1)

    def _table_sizes(self, ids: Input) -> list[int]:
        """Return the number of rows of each embedding in which the ids are looked up."""
        lookups = (value for value in self if isinstance(value, EmbeddingLookup) and value.ids is ids)
        return [value.weight.shape[0] for value in lookups]

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
