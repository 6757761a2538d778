"""The keys of models with grouped positions: those of full windows move, which cannot be undone.

Keys are rotated once more when their window is full; see `llamafw.graph.GroupedPositions`. Rounded numbers cannot be
rotated back exactly, so a slot can be cut within its last window, which is not full, and at the ends of the others.
A draft may fill a window. Then the keys before their rotation are kept until the draft is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Batch, Bytes, Floats, LlamafwError
from llamafw import graph as g
from llamafw_backends.numba_cpu.key_rotation import KeyRotation
from llamafw_backends.numba_cpu.kv_cache import KVCache

_NOTHING: Bytes = np.zeros(0, np.uint8)


class GroupedKeys:
    """Which windows of each slot are grouped; it has the methods of `SlotStates`.

    Parameters
    ----------
    positions : GroupedPositions
        The positions of the model.
    rotations : sequence of KeyRotation or None
        How the keys of each cache are rotated.
    n_slots : int
        Number of slots.
    cache : KVCache
        The keys, without rings.
    """

    def __init__(
        self,
        positions: g.GroupedPositions,
        rotations: Sequence[KeyRotation | None],
        n_slots: int,
        cache: KVCache,
    ) -> None:
        cache.prepare_shift(rotations)
        self._width, self._moves, self._cache = positions.width, positions.moves(), cache
        self._n_grouped = [0] * n_slots  # positions in full windows
        self._held: list[int | None] = [None] * n_slots  # where a draft began
        self._kept: list[tuple[int, list[npt.NDArray[Any]]] | None] = [None] * n_slots  # a window before it was grouped

    def run(self, batch: Batch, compute: Callable[[Batch], Floats]) -> Floats:
        """Return the rows of a batch, which is computed in parts if it goes on after the end of a window.

        Parameters
        ----------
        batch : Batch
            The batch, not yet checked.
        compute : callable
            Returns the rows of a batch that ends no window before its end, valid until the next call.

        Returns
        -------
        (m, n) float32
            The rows of the batch's outputs.
        """
        n, outputs = len(batch.tokens), batch.outputs
        if len(batch.positions) != n or len(batch.slots) != n or not ((outputs >= 0) & (outputs < n)).all():
            return compute(batch)  # which says what is wrong
        windows = batch.positions // self._width
        starts = np.flatnonzero(np.diff(batch.slots, prepend=-1))
        turns = windows - np.repeat(windows[starts], np.diff([*starts, n]))
        if not turns.any():
            return compute(batch)

        rows: Floats | None = None
        for turn in np.unique(turns):
            chosen = turns == turn
            found = compute(_part(batch, chosen))
            if rows is None:
                rows = np.empty((len(outputs), found.shape[1]), np.float32)
            rows[chosen[outputs]] = found
        assert rows is not None  # there are turns
        return rows

    def advance(self, slot: int, n: int) -> None:
        """Group the windows that are full now that ``slot`` has ``n`` positions."""
        first = self._n_grouped[slot]
        while first + self._width <= n:
            end = first + self._width
            held = self._held[slot]
            if held is not None and first <= held < end:
                self._kept[slot] = first, self._cache.copy_keys(slot, first, end)
            self._cache.move_keys(slot, first, self._moves)
            self._n_grouped[slot] = first = end

    def take_snapshot(self, slot: int, n: int) -> None:
        """Do nothing: the ends of windows need no copies."""

    def hold(self, slot: int, n: int) -> None:
        """Keep ``slot``, which has ``n`` positions, such that a cut can go back to them until the next call."""
        self._held[slot], self._kept[slot] = n, None

    def positions(self, slot: int) -> list[int]:
        """Return the ends of the full windows of ``slot``, ascending."""
        return list(range(self._width, self._n_grouped[slot] + 1, self._width))

    def cut(self, slot: int, n: int) -> int:
        """Go back to at most ``n`` positions; return how many are left."""
        held, kept = self._held[slot], self._kept[slot]
        if held is not None and n < held:
            held = self._held[slot] = self._kept[slot] = None
        if n < self._n_grouped[slot]:
            first = n - n % self._width
            if held is not None and kept is not None and first == kept[0]:
                self._cache.write_keys(slot, first, first + self._width, kept[1])
            else:
                n = first
            self._n_grouped[slot], self._kept[slot] = first, None
        return n

    def max_bytes(self, n: int) -> int:
        """Return 0: saved states have nothing but keys and values."""
        return 0

    def save(self, slot: int, n: int, n_positions: int) -> Bytes:
        """Return nothing; raise LlamafwError if the slot cannot be cut at ``n``."""
        if n < self._n_grouped[slot] and n % self._width:
            raise LlamafwError(f"slot {slot} cannot be cut at {n}, which is within a full window")
        return _NOTHING

    def parse(self, n: int, saved: Bytes) -> list[tuple[int, int, Bytes]]:
        """Return what `restore` needs for ``n`` positions; raise LlamafwError if something was saved."""
        if saved.nbytes:
            raise LlamafwError(f"the state has {saved.nbytes} bytes more than {n} positions")
        return [(n, 0, _NOTHING)]

    def restore(self, slot: int, states: Iterable[tuple[int, int, Bytes]]) -> None:
        """Record that ``slot`` now has what `parse` was called for."""
        for n, _, _ in states:
            self._n_grouped[slot] = n - n % self._width
        self._held[slot] = self._kept[slot] = None


def _part(batch: Batch, chosen: npt.NDArray[np.bool_]) -> Batch:
    """Return the chosen tokens of a batch."""
    is_output = np.zeros(len(batch.tokens), bool)
    is_output[batch.outputs] = True
    return replace(
        batch,
        tokens=batch.tokens[chosen],
        positions=batch.positions[chosen],
        slots=batch.slots[chosen],
        outputs=np.flatnonzero(is_output[chosen]).astype(np.int32),
        types=None if batch.types is None else batch.types[chosen],
        scales=None if batch.scales is None else batch.scales[chosen],
    )
