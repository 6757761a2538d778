"""Computes the inputs of the model from a batch: indices of rows, positions, angles, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Batch
from llamafw import graph as g
from llamafw_backends.onnx.model_builder import Array
from llamafw_backends.onnx.tensors import Tensors

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that are computed at once: some of a batch.

    Attributes
    ----------
    tokens, positions, slots : (n,) int64
        See `llamafw.Batch`.
    rows : (m,) int64
        Which tokens' hidden states or logits are wanted.
    """

    tokens: Ints
    positions: Ints
    slots: Ints
    rows: Ints

    @property
    def starts(self) -> Ints:
        """The index of the first token of each slot, and the number of tokens at the end."""
        changes = np.flatnonzero(np.diff(self.slots)) + 1
        return np.concatenate([[0], changes, [len(self.slots)]]).astype(np.int64)

    @property
    def n_keys(self) -> int:
        """How many positions of a slot are used after these tokens, at most."""
        return int(self.positions.max()) + 1

    @property
    def n_positions(self) -> int:
        """How many positions of a slot are used if each slot, also an idle one, has as many tokens as the longest."""
        starts = self.starts
        return max(int(self.positions[starts[:-1]].max()), 1) + int(np.diff(starts).max())


def divide(batch: Batch, size: int) -> list[Part]:
    """Return a batch in parts of at most ``size`` tokens."""
    arrays = (batch.tokens, batch.positions, batch.slots, batch.outputs)
    tokens, positions, slots, outputs = (np.asarray(array, np.int64) for array in arrays)
    parts = []
    for first in range(0, len(tokens), size):
        last = min(first + size, len(tokens))
        rows = outputs[(outputs >= first) & (outputs < last)] - first
        parts.append(Part(tokens[first:last], positions[first:last], slots[first:last], rows))
    return parts


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
    n_ctx, n_slots : int
        Positions per slot, and slots.
    float_type : numpy type
        The type of activations.
    """

    tensors: Tensors
    lookups: Mapping[str, g.EmbeddingLookup]
    rotations: Mapping[str, g.Rotation]
    n_ctx: int
    n_slots: int
    float_type: np.dtype[Any]

    def make(self, part: Part, *, logits: bool) -> dict[str, Array]:
        """Return all inputs by name; a model declares those that it needs."""
        starts = part.starts
        lengths, active = np.diff(starts), part.slots[starts[:-1]]
        steps = np.arange(lengths.max())
        padded = np.where(steps < lengths[:, None], starts[:-1, None] + steps, starts[:-1, None])
        step_of = np.arange(len(part.tokens)) - np.repeat(starts[:-1], lengths)
        unpadded = np.repeat(np.arange(len(active)), lengths) * len(steps) + step_of
        inputs: dict[str, Array] = {
            "tokens": part.tokens,
            "positions": part.positions,
            "slots": part.slots,
            "rows": part.rows,
            "logit_rows": np.arange(len(part.rows) if logits else 0),
            "active": active,
            "lengths": lengths,
            "sequence_starts": starts.astype(np.int32),
            "padded": padded,
            "unpadded": unpadded,
            "n_keys": np.array([part.n_keys]),
        }
        inputs |= self._by_slot(part, active, lengths, padded, step_of)
        for name, lookup in self.lookups.items():
            ids = part.tokens if lookup.ids is g.TOKENS else part.positions
            inputs[name] = self.tensors.rows(lookup.weight, ids)
        for name, rotation in self.rotations.items():
            inputs |= self._angles(name, rotation, part.positions)
        return inputs

    def _by_slot(self, part: Part, active: Ints, lengths: Ints, padded: Ints, step_of: Ints) -> dict[str, Array]:
        """Return the inputs of nodes that have a row for each slot, also for those without tokens."""
        n_steps = padded.shape[1]
        rows = np.zeros((self.n_slots, n_steps), np.int64)
        queries, ends = np.zeros((2, self.n_slots), np.int32)
        rows[active], queries[active] = padded, lengths
        ends[part.slots] = part.positions  # of several positions the last one stays
        return {
            "slot_rows": rows,
            "slot_unpadded": part.slots * n_steps + step_of,
            "query_lengths": queries,
            "last_positions": ends,
            "n_cached": np.array(ends.max() + 1, np.int32),
        }

    def _angles(self, name: str, rotation: g.Rotation, positions: Ints) -> dict[str, Array]:
        angles = positions[:, None, None] * rotation.frequencies_for(self.n_ctx)
        functions: dict[str, Callable[[Any], Any]] = {"cos": np.cos, "sin": np.sin}
        return {
            f"{name}.{kind}": (function(angles) * rotation.magnitude).astype(self.float_type)
            for kind, function in functions.items()
        }
