"""What the slots hold, and what happens to it between forward passes: cuts, snapshots, shifts, saved states."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, LlamafwError, RequestError
from llamafw_backends.numba_cpu.grouped_keys import GroupedKeys
from llamafw_backends.numba_cpu.key_rotation import KeyRotation
from llamafw_backends.numba_cpu.kv_cache import KVCache
from llamafw_backends.numba_cpu.slot_states import SlotStates


class Slots:
    """All slots of a model.

    Parameters
    ----------
    filled : (n_slots,) int64
        Number of positions in each slot. Forward passes change it, too.
    cache : KVCache
        The keys and values.
    states : SlotStates or GroupedKeys
        What cannot be cut anywhere.
    rotations : sequence of KeyRotation or None, optional
        How the keys of each cache are rotated. None: they cannot be moved to other positions.
    n_ctx : int
        Maximum number of positions of a slot.
    """

    def __init__(
        self,
        filled: npt.NDArray[np.int64],
        cache: KVCache,
        states: SlotStates | GroupedKeys,
        rotations: Sequence[KeyRotation | None] | None,
        n_ctx: int,
    ) -> None:
        self._filled, self._cache, self._states, self._n_ctx = filled, cache, states, n_ctx
        self._can_shift = False
        if rotations is not None and not states:
            cache.prepare_shift(rotations)
            self._can_shift = True

    @property
    def can_cut(self) -> bool:
        """Whether slots can be cut at any position."""
        return not self._states

    @property
    def can_shift(self) -> bool:
        """Whether positions can be moved."""
        return self._can_shift

    def go_back(self, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> None:
        """Cut each slot where a batch continues it; raise RequestError if that is not possible.

        Parameters
        ----------
        slots, positions : (n,) int64
            Slot and position of the batch's tokens, not yet checked.
        """
        if self.can_cut:
            return
        starts = np.flatnonzero(np.diff(slots, prepend=-1))
        for slot, position in zip(slots[starts].tolist(), positions[starts].tolist(), strict=True):
            exists = 0 <= slot < len(self._filled) and 0 <= position < self._filled[slot]
            if exists and self.truncate(slot, position) != position:
                raise RequestError(f"slot {slot} cannot continue at position {position}, whose state was not kept")

    def advance(self, slots: npt.NDArray[np.int64]) -> None:
        """Record that a batch with tokens of these slots was computed."""
        if self.can_cut:
            return
        for slot in set(slots.tolist()):
            self._states.advance(slot, int(self._filled[slot]))

    def reserve(self, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> None:
        """Prepare the slots of a valid batch for its tokens.

        Parameters
        ----------
        slots, positions : (n,) int64
            Slot and position of the batch's tokens.
        """
        ends = np.flatnonzero(slots[1:] != slots[:-1]) + 1
        for first, end in itertools.pairwise([0, *ends.tolist(), len(slots)]):
            self._cache.reserve(int(slots[first]), int(positions[first]), int(positions[end - 1]) + 1)

    def truncate(self, slot: int, n: int) -> int:
        """Remove all positions of ``slot`` from ``n`` on; return how many are left."""
        n_positions = self._n_positions(slot)
        if n < 0:
            raise LlamafwError(f"slot {slot} cannot be truncated to {n} positions")
        if n < n_positions:
            n_left = self._filled[slot] = self._states.cut(slot, n) if self._states else n
            self._cache.truncate(slot, n_left)
        return int(self._filled[slot])

    def take_snapshot(self, slot: int) -> None:
        """Keep a copy of what cannot be cut of ``slot``, for `truncate`."""
        self._states.take_snapshot(slot, self._n_positions(slot))

    def hold_state(self, slot: int) -> None:
        """Keep what cannot be cut of ``slot`` until the next call, besides its snapshots."""
        self._states.hold(slot, self._n_positions(slot))

    def snapshots(self, slot: int) -> Sequence[int]:
        """Return the positions of the snapshots of ``slot``, ascending."""
        return self._states.positions(slot)

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove positions ``first`` … ``first + n - 1`` of ``slot``; later ones move down, with their keys rotated."""
        end = self._n_positions(slot)
        if first < 0 or n < 0 or first + n > end:
            raise LlamafwError(f"{n} positions from {first} on cannot be removed from slot {slot}, which has {end}")
        if not self._can_shift:
            raise LlamafwError("the positions of this model cannot be moved")
        self._cache.shift(slot, first, n, end)
        self._filled[slot] = end - n

    def share_prefix(self, source: int, target: int, n: int) -> None:
        """Replace the contents of slot ``target`` by the first ``n`` positions of ``source``.

        Both slots then use the same memory, except for the last page. States that cannot be cut are copied, with their
        snapshots.

        Raises
        ------
        LlamafwError
            A slot does not exist, both are the same, or ``source`` cannot be cut at ``n``.
        """
        n_positions = self._n_positions(source)
        self._n_positions(target)  # raises an error if the slot does not exist
        if source == target or not 0 < n <= n_positions:
            raise LlamafwError(
                f"slot {target} cannot get {n} positions of slot {source}, which has {n_positions} positions"
            )
        states = self._states.parse(n, self._states.save(source, n, n_positions)) if self._states else []
        self._cache.share(source, target, n)
        if self._states:
            self._states.restore(target, states)
        self._filled[target] = n

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions; with snapshots, the largest possible."""
        return self._cache.state_size(n) + self._states.max_bytes(n)

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the state of the first ``n`` positions of ``slot``, (n_bytes,) uint8."""
        if not 0 <= n <= (n_positions := self._n_positions(slot)):
            raise LlamafwError(f"{n} positions of slot {slot} cannot be saved, because it has {n_positions}")
        states = self._states.save(slot, n, n_positions) if self._states else None
        cached = self._cache.save(slot, n)
        return cached if states is None else np.concatenate([cached, states])

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by ``n`` positions that `save` returned.

        Raises
        ------
        LlamafwError
            The slot does not exist, or the state does not have the size of ``n`` positions.
        """
        self._n_positions(slot)  # raises an error if the slot does not exist
        if not 0 <= n <= self._n_ctx:
            raise LlamafwError(f"{n} positions do not fit into the context of {self._n_ctx}")
        n_cached = self._cache.state_size(n)
        states = self._states.parse(n, state[n_cached:]) if self._states else []
        self._cache.restore(slot, n, state[:n_cached] if self._states else state)
        if self._states:
            self._states.restore(slot, states)
        self._filled[slot] = n

    def missing(self, slot: int) -> str:
        """Return the message about a slot that does not exist."""
        return f"slot {slot} does not exist: slots are numbered from 0 to {len(self._filled) - 1}"

    def _n_positions(self, slot: int) -> int:
        """Return the number of positions in ``slot``; raise LlamafwError if it does not exist."""
        if not 0 <= slot < len(self._filled):
            raise LlamafwError(self.missing(slot))
        return int(self._filled[slot])
