"""What slots keep that cannot be cut anywhere: the states of recurrent operators and the last positions of windows.

A recurrent state of n positions also serves the positions since the start of its last block (see `recurrence`), unless
the model has an operator of a plugin with a state: that serves n positions only. Of windows, see `ring`. Further back,
a slot needs a snapshot: a copy of all its states and windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, LlamafwError, Snapshots
from llamafw_backends.numba_cpu.memory import Arena
from llamafw_backends.numba_cpu.recurrence import earliest_position
from llamafw_backends.numba_cpu.ring import Ring

Snapshot = tuple[int, Bytes]
"""The earliest position that a slot can go back to from the snapshot, and its bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class _HeldState:
    """A copy of the recurrent state of a slot."""

    position: int
    earliest: int  # the earliest position that it serves
    state: Bytes


class SlotStates:
    """The states of all slots.

    Parameters
    ----------
    n_slots : int
        Number of slots.
    slot_bytes : int
        Size of the recurrent states of a slot; 0 for models without recurrent operators.
    rings : sequence of Ring
        The caches that keep the last positions only.
    n_snapshots : int
        Maximum number of snapshots of a slot.
    can_go_back : bool
        Whether a recurrent state serves the positions since the start of its last block. False: its own position only.
    """

    def __init__(
        self, n_slots: int, slot_bytes: int, rings: Sequence[Ring], n_snapshots: int, *, can_go_back: bool = True
    ) -> None:
        self.slot_bytes, self._rings, self._can_go_back = slot_bytes, rings, can_go_back
        self._arena = Arena(n_slots * slot_bytes)
        self.address = self._arena.allocate(n_slots * slot_bytes)
        self._states: npt.NDArray[np.uint8] = self._arena.view(self.address, (n_slots, slot_bytes), np.uint8)
        self._earliest = [0] * n_slots  # positions that the slots can go back to without a snapshot
        self._earliest_in_rings = [0] * n_slots  # the same, if only windows counted
        self._held: list[_HeldState | None] = [None] * n_slots
        self._snapshots: list[Snapshots[Snapshot]] = [Snapshots(n_snapshots) for _ in range(n_slots)]

    def __bool__(self) -> bool:
        """Return whether the model has recurrent operators or caches that keep the last positions only."""
        return self.slot_bytes > 0 or len(self._rings) > 0

    def advance(self, slot: int, n: int) -> None:
        """Record that ``slot`` has computed tokens and now has ``n`` positions."""
        self._earliest_in_rings[slot] = max((0, *(ring.earliest(n) for ring in self._rings)))
        earliest = max(self._earliest[slot], self._earliest_in_rings[slot])
        if self.slot_bytes:
            earliest = earliest_position(n, earliest) if self._can_go_back else n
        self._earliest[slot] = earliest

    def take_snapshot(self, slot: int, n: int) -> None:
        """Copy the state of ``slot``, which has ``n`` positions."""
        self._snapshots[slot].add(n, self._copy(slot, n))

    def hold(self, slot: int, n: int) -> None:
        """Copy the recurrent state of ``slot``, which has ``n`` positions, in place of the last one that was held.

        Windows are not copied: their caches have room for all but the longest drafts.
        """
        if not self.slot_bytes:
            return
        held = self._held[slot]
        state = np.empty_like(self._states[slot]) if held is None else held.state
        state[...] = self._states[slot]
        self._held[slot] = _HeldState(n, self._earliest[slot], state)

    def positions(self, slot: int) -> list[int]:
        """Return the positions of the snapshots of ``slot``, ascending."""
        return self._snapshots[slot].positions

    def cut(self, slot: int, n: int) -> int:
        """Go back to at most ``n`` positions; return how many are left."""
        held = self._held[slot]
        if held is not None and held.position > n:
            held = self._held[slot] = None
        if 0 < n < self._earliest[slot]:
            found = self._snapshots[slot].last(n)
            n = 0 if found is None else found[0]
            if held is not None and n < held.position and self._earliest_in_rings[slot] <= held.position:
                n, self._states[slot] = held.position, held.state
                self._earliest[slot] = max(held.earliest, self._earliest_in_rings[slot])
            elif found is not None:
                self._write(slot, n, found[1])
        if n == 0:
            self._earliest[slot] = 0  # the kernels begin anew with position 0
        self._snapshots[slot].cut(n)
        return n

    def max_bytes(self, n: int) -> int:
        """Return the largest size of what `save` returns for ``n`` positions."""
        n_states = min(self._snapshots[0].limit, n) + 1
        state_bytes = self.slot_bytes + sum(ring.max_bytes(n) for ring in self._rings)
        return n_states * (state_bytes + 16) + 8 if self else 0

    def save(self, slot: int, n: int, n_positions: int) -> Bytes:
        """Return the state of the first ``n`` of ``n_positions`` positions, and the snapshots before.

        The bytes are the number of states, then for each its position and the earliest position that it serves, all as
        int64, then the states. The last one has ``n`` positions.

        Raises
        ------
        LlamafwError
            The slot cannot be cut at ``n``.
        """
        states = [(position, *snapshot) for position, snapshot in self._snapshots[slot] if position <= n]
        if self._earliest[slot] <= n <= n_positions:
            states = [one for one in states if one[0] < n] + [(n, *self._copy(slot, n))]
        if not states or states[-1][0] != n:
            raise LlamafwError(f"the state of {n} positions of slot {slot} was not kept")
        numbers = np.array([len(states), *(number for one in states for number in one[:2])], np.int64)
        return np.concatenate([numbers.view(np.uint8), *(state for _, _, state in states)])

    def parse(self, n: int, saved: Bytes) -> list[tuple[int, int, Bytes]]:
        """Return the states that `save` has returned for ``n`` positions.

        Raises
        ------
        LlamafwError
            The bytes are something else.
        """
        saved = np.ascontiguousarray(saved)
        count = int(saved[:8].view(np.int64)[0]) if saved.nbytes >= 8 else 0
        start = 8 + 16 * count
        if not 0 < count <= self._snapshots[0].limit + 1 or saved.nbytes < start:
            raise LlamafwError(f"the state has {saved.nbytes} bytes, which do not fit this model")
        numbers = saved[8:start].view(np.int64).reshape(count, 2)
        ascending = (
            (np.diff(numbers[:, 0]) > 0).all() and (numbers >= 0).all() and (numbers[:, 1] <= numbers[:, 0]).all()
        )
        if not ascending or numbers[-1, 0] != n:
            raise LlamafwError(f"the state is not one of {n} positions")

        ends = start + np.cumsum([self._n_bytes(position) for position, _ in numbers.tolist()])
        if saved.nbytes != ends[-1]:
            raise LlamafwError(f"the state has {saved.nbytes} bytes, which do not fit this model")
        states = np.split(saved[start:], ends[:-1] - start)
        return [(int(p), int(earliest), state) for (p, earliest), state in zip(numbers, states, strict=True)]

    def restore(self, slot: int, states: Iterable[tuple[int, int, Bytes]]) -> None:
        """Replace the state and the snapshots of ``slot`` by what `parse` has returned."""
        *snapshots, (n, earliest, state) = states
        self._snapshots[slot].cut(-1)
        for position, one_earliest, one in snapshots:
            self._snapshots[slot].add(position, (one_earliest, one.copy()))
        self._write(slot, n, (earliest if n else 0, state))

    def _n_bytes(self, n: int) -> int:
        """Return the size of a copy of the state of ``n`` positions."""
        return self.slot_bytes + sum(ring.n_bytes(n) for ring in self._rings)

    def _copy(self, slot: int, n: int) -> Snapshot:
        """Return a copy of the state of the first ``n`` positions of ``slot``."""
        parts = [self._states[slot], *(ring.copy(slot, n) for ring in self._rings)]
        has_all = all(ring.first(n) == 0 for ring in self._rings)
        return self._earliest[slot] if has_all else n, np.concatenate(parts)

    def _write(self, slot: int, n: int, snapshot: Snapshot) -> None:
        """Replace the state of ``slot`` by a copy of one of ``n`` positions."""
        self._held[slot] = None
        self._earliest[slot], state = snapshot
        self._states[slot], start = state[: self.slot_bytes], self.slot_bytes
        for ring in self._rings:
            end = start + ring.n_bytes(n)
            ring.write(slot, n, state[start:end])
            start = end
