"""Computes the inputs of the model from a batch: indices of rows, positions, angles, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llamafw import Batch, Floats
from llamafw import graph as g
from llamafw_backends.onnx.block_table import BlockTable, count_blocks
from llamafw_backends.onnx.embedding_rows import EmbeddingRows
from llamafw_backends.onnx.model_builder import Array
from llamafw_backends.onnx.tensors import Tensors

if TYPE_CHECKING:
    from llamafw_backends.onnx.lowering import Lowering

Ints = npt.NDArray[np.int64]

PADDED = {"padded", "slot_rows"}
"""The inputs with a row for each slot that is as long as the longest."""

MAX_SLOTS = 256
"""How many slots PagedAttention takes at once; genai, which is built on it, has the same limit."""

MAX_PADDING = 256
"""How many rows without a token a run may have: above this, two runs are quicker than one."""


@dataclass(frozen=True)
class Part:
    """Tokens that are computed at once: some of a batch.

    Attributes
    ----------
    tokens, positions, slots, types : (n,) int64
        See `llamafw.Batch`.
    rows : (m,) int64
        Which tokens' hidden states or logits are wanted.
    places : (m,) int64
        Where they are among those of the batch.
    indices : (n,) int64
        Where the tokens are in the batch.
    scales, hidden : (n, …) float32, optional
        See `llamafw.Batch`.
    """

    tokens: Ints
    positions: Ints
    slots: Ints
    types: Ints
    rows: Ints
    places: Ints
    indices: Ints
    scales: Floats | None = None
    hidden: Floats | None = None

    @cached_property
    def starts(self) -> Ints:
        """The index of the first token of each slot, and the number of tokens at the end."""
        changes = np.flatnonzero(np.diff(self.slots)) + 1
        return np.concatenate([[0], changes, [len(self.slots)]]).astype(np.int64)

    @property
    def slot_range(self) -> tuple[int, int]:
        """The first slot, and how many there are from it to the last one."""
        first = int(self.slots.min())
        return first, int(self.slots.max()) + 1 - first

    @property
    def ends(self) -> dict[int, int]:
        """How many positions each slot has after these tokens."""
        lasts = self.starts[1:] - 1
        return dict(zip(self.slots[lasts].tolist(), (self.positions[lasts] + 1).tolist(), strict=True))

    @property
    def n_padding(self) -> int:
        """How many rows without a token there are if each slot of the range has as many as the longest."""
        return self.slot_range[1] * int(np.diff(self.starts).max()) - len(self.tokens)

    def of_slots(self, slots: Ints) -> Part:
        """Return the tokens of some slots."""
        is_kept = np.isin(self.slots, slots)
        new = np.cumsum(is_kept) - 1
        wanted = is_kept[self.rows]
        arrays = (self.tokens, self.positions, self.slots, self.types, self.indices)
        tokens, positions, kept, types, indices = (array[is_kept] for array in arrays)
        scales, hidden = (None if one is None else one[is_kept] for one in (self.scales, self.hidden))
        rows, places = new[self.rows[wanted]], self.places[wanted]
        return Part(tokens, positions, kept, types, rows, places, indices, scales, hidden)

    @property
    def n_keys(self) -> int:
        """How many positions of a slot are used after these tokens, at most."""
        return int(self.positions.max()) + 1

    @property
    def n_positions(self) -> int:
        """How many positions of a slot are used if each slot, also an idle one, has as many tokens as the longest."""
        starts = self.starts
        return max(int(self.positions[starts[:-1]].max()), 1) + int(np.diff(starts).max())


def divide(batch: Batch, size: int, *, pads: bool = True) -> list[Part]:
    """Return a batch in parts of at most ``size`` tokens; without much padding, if the model pads."""
    kinds = np.zeros_like(batch.tokens) if batch.types is None else batch.types
    arrays = (batch.tokens, batch.positions, batch.slots, kinds, batch.outputs)
    tokens, positions, slots, types, outputs = (np.asarray(array, np.int64) for array in arrays)
    parts = []
    for first in range(0, len(tokens), size):
        last = min(first + size, len(tokens))
        places = np.flatnonzero((outputs >= first) & (outputs < last))
        rows = outputs[places] - first
        part = slice(first, last)
        scales, hidden = (None if one is None else one[part] for one in (batch.scales, batch.hidden))
        of_part = Part(
            tokens[part],
            positions[part],
            slots[part],
            types[part],
            rows,
            places,
            np.arange(first, last, dtype=np.int64),
            scales,
            hidden,
        )
        for one in separate(of_part) if pads else [of_part]:
            parts += with_few_slots(one)
    return parts


def separate(part: Part) -> list[Part]:
    """Return a part, divided by slots if there would be much padding: numbers of tokens per slot become similar."""
    starts = part.starts
    if part.n_padding <= MAX_PADDING or len(starts) == len(part.tokens) + 1:  # one token per slot needs few rows
        return [part]
    active, lengths = part.slots[starts[:-1]], np.diff(starts)
    kinds = np.frexp(lengths)[1]  # of lengths between the same powers of two
    if len(set(kinds)) > 1:
        groups = [active[kinds == kind] for kind in sorted(set(kinds))]
        return [one for group in groups for one in separate(part.of_slots(group))]
    return [part.of_slots(active[i : i + 1]) for i in range(len(active))]


def with_few_slots(part: Part) -> list[Part]:
    """Return a part, divided so that each has at most `MAX_SLOTS` slots."""
    active = part.slots[part.starts[:-1]]
    if len(active) <= MAX_SLOTS:
        return [part]
    return [part.of_slots(active[i : i + MAX_SLOTS]) for i in range(0, len(active), MAX_SLOTS)]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Makes the inputs of a model.

    Attributes
    ----------
    tensors : Tensors
        Where embeddings are looked up.
    lookups : mapping of str to EmbeddingLookup
        The embeddings, by the names of the inputs.
    rotations : mapping of str to Rotation
        The rotations, by the names of the inputs without ``.cos`` and ``.sin``.
    n_ctx : int
        Positions per slot.
    float_type : numpy type
        The type of activations.
    n_scales : int
        Scales of each token; 0: the model has no adapters.
    pads : bool
        Whether the model has nodes with as many rows for each slot as the longest has tokens.
    """

    tensors: Tensors
    lookups: Mapping[str, g.EmbeddingLookup]
    rotations: Mapping[str, g.Rotation]
    n_ctx: int
    float_type: np.dtype[Any]
    n_scales: int = 0
    pads: bool = True
    _frequencies: dict[str, Any] = field(default_factory=dict)  # of the rotations
    _rows: dict[str, EmbeddingRows] = field(default_factory=dict)  # of the embeddings

    @classmethod
    def of(cls, lowering: Lowering) -> Inputs:
        """Return what makes the inputs of a model that has been lowered."""
        return cls(
            lowering.tensors,
            lowering.lookups,
            lowering.rotations,
            lowering.n_ctx,
            lowering.builder.float_type,
            lowering.context.graph.n_scales,
            pads=not PADDED.isdisjoint(lowering.builder.input_names),
        )

    def make(
        self, part: Part, slot_range: tuple[int, int], *, logits: bool, all_hidden: bool = False
    ) -> dict[str, Array]:
        """Return all inputs by name; a model declares those that it needs.

        Parameters
        ----------
        part : Part
            The tokens.
        slot_range : (int, int)
            The first slot whose states the model gets, and how many slots it gets.
        logits : bool
            Whether logits are wanted, not only hidden states.
        all_hidden : bool
            Whether the hidden states of all tokens are wanted, besides the logits of some.
        """
        starts, slots = part.starts, part.slots - slot_range[0]
        lengths, active = np.diff(starts), slots[starts[:-1]]
        inputs: dict[str, Array] = {
            "tokens": part.tokens,
            "positions": part.positions,
            "types": part.types,
            "slots": slots,
            "rows": np.arange(len(part.tokens)) if all_hidden else part.rows,
            "logit_rows": part.rows if all_hidden else np.arange(len(part.rows) if logits else 0),
            "active": active,
            "lengths": lengths,
            "sequence_starts": starts.astype(np.int32),
            "past_lengths": part.positions[starts[:-1]].astype(np.int32),
            "n_keys": np.array([part.n_keys]),
            "scales": (np.zeros((len(slots), self.n_scales)) if part.scales is None else part.scales).astype(
                self.float_type
            ),
        }
        if part.hidden is not None:
            inputs["hidden_rows"] = part.hidden.astype(self.float_type)
        if self.pads:
            inputs |= _padded_inputs(part, slots, slot_range[1])
        for name, lookup in self.lookups.items():
            assert isinstance(lookup.ids, g.Input)  # the lookups with others are computed in the model
            if name not in self._rows:
                self._rows[name] = EmbeddingRows(self.tensors, lookup.weight)
            inputs[name] = self._rows[name][inputs[lookup.ids.name]]
        for name, rotation in self.rotations.items():
            inputs |= self._angles(name, rotation, part.positions)
        return inputs

    def _angles(self, name: str, rotation: g.Rotation, positions: Ints) -> dict[str, Array]:
        if name not in self._frequencies:
            self._frequencies[name] = rotation.frequencies_for(self.n_ctx)
        angles = positions[:, None, None] * self._frequencies[name]
        functions: dict[str, Callable[[Any], Any]] = {"cos": np.cos, "sin": np.sin}
        return {
            f"{name}.{kind}": (function(angles) * rotation.magnitude).astype(self.float_type)
            for kind, function in functions.items()
        }


def _padded_inputs(part: Part, slots: Ints, n_slots: int) -> dict[str, Array]:
    """Return the inputs of nodes that have as many rows for each slot as the longest has tokens."""
    starts = part.starts
    lengths, active = np.diff(starts), slots[starts[:-1]]
    steps = np.arange(lengths.max())
    padded = np.where(steps < lengths[:, None], starts[:-1, None] + steps, starts[:-1, None])
    step_of = np.arange(len(slots)) - np.repeat(starts[:-1], lengths)
    unpadded = np.repeat(np.arange(len(active)), lengths) * len(steps) + step_of
    by_slot = _by_slot(n_slots, active, lengths, padded, part.positions[starts[1:] - 1])
    return {"padded": padded, "unpadded": unpadded, "slot_unpadded": slots * len(steps) + step_of, **by_slot}


def _by_slot(n_slots: int, active: Ints, lengths: Ints, padded: Ints, last: Ints) -> dict[str, Array]:
    """Return the inputs of nodes that have a row for each slot, also for those without tokens."""
    rows = np.zeros((n_slots, padded.shape[1]), np.int64)
    queries, ends = np.zeros((2, n_slots), np.int32)
    rows[active], queries[active], ends[active] = padded, lengths, last
    return {
        "slot_rows": rows,
        "query_lengths": queries,
        "last_positions": ends,
        "n_cached": np.array(last.max() + 1, np.int32),
    }


def block_inputs(part: Part, blocks: BlockTable) -> dict[str, Array]:
    """Return the inputs of nodes that read caches in blocks; the number of columns is a power of two."""
    starts = part.starts
    n_columns = 1 << (count_blocks(part.n_keys) - 1).bit_length()
    bounds = np.array([np.diff(starts).max(), part.n_keys], np.int32)
    return {"block_table": blocks.rows(part.slots[starts[:-1]].tolist(), n_columns), "attention_bounds": bounds}
