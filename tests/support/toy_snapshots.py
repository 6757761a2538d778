"""Toy backends whose slots cannot be cut anywhere: one with a recurrent state, one with a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llamafw import Batch, Bytes, Floats, LlamafwError, Snapshots
from support.toy_model import LogitsFunction, ToyBackend


class SnapshotToyBackend(ToyBackend):
    """A `ToyBackend` with snapshots, which are copies of a slot's tokens.

    A saved state has the number of snapshots, their positions, and the tokens, all as int32.

    Parameters
    ----------
    n_snapshots : int
        Maximum number of snapshots per slot.

    Attributes
    ----------
    taken : list of (int, int)
        The slots and the positions of all snapshots taken so far.
    n_held : int
        Number of calls of `hold_state` so far.
    """

    can_cut = False

    def __init__(self, *args: Any, n_snapshots: int = 8, **more: Any) -> None:
        super().__init__(*args, **more)
        self.n_snapshots = n_snapshots
        self.taken: list[tuple[int, int]] = []
        self.n_held = 0
        self._snapshots: list[Snapshots[list[int]]] = [Snapshots(n_snapshots) for _ in range(self.n_slots)]

    def take_snapshot(self, slot: int) -> None:
        held = self.slots[slot]
        self._snapshots[slot].add(len(held), held.copy())
        self.taken.append((slot, len(held)))

    def hold_state(self, slot: int) -> None:
        held = self.slots[slot]
        self._snapshots[slot].hold(len(held), held.copy())
        self.n_held += 1

    def snapshots(self, slot: int) -> Sequence[int]:
        return self._snapshots[slot].positions

    def truncate(self, slot: int, n: int) -> int:
        assert 0 <= n <= len(self.slots[slot])
        self.truncations.append((slot, n))
        if n < len(self.slots[slot]):
            self._cut(slot, n)
        return len(self.slots[slot])

    def _cut(self, slot: int, n: int) -> None:
        """Go back to the last snapshot of at most ``n`` positions."""
        _, tokens = self._snapshots[slot].last(n) or (0, [])
        self._replace(slot, tokens.copy())

    def _replace(self, slot: int, tokens: list[int]) -> None:
        """Replace the tokens of a slot, and remove the snapshots of more tokens."""
        self.slots[slot] = tokens
        self._snapshots[slot].cut(len(tokens))

    def state_size(self, n: int) -> int:
        return 4 * (1 + self.n_snapshots + n)

    def save(self, slot: int, n: int) -> Bytes:
        held, positions = self.slots[slot], self._snapshots[slot].positions
        if n not in (0, len(held), *positions):
            raise LlamafwError(f"slot {slot} cannot be cut at {n}")
        before = [position for position in positions if position < n]
        return np.array([len(before), *before, *held[:n]], np.int32).view(np.uint8)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        count, *numbers = state.view(np.int32).tolist()
        positions, tokens = numbers[:count], numbers[count:]
        if len(tokens) != n or n > self.n_ctx:
            raise LlamafwError("the state does not fit")
        self._replace(slot, [])
        for position in positions:
            self._snapshots[slot].add(position, tokens[:position])
        self._replace(slot, tokens)


class RecurrentToyBackend(SnapshotToyBackend):
    """Keeps the state after the last token only, apart from snapshots."""

    can_shift = False


class WindowedToyBackend(SnapshotToyBackend):
    """Keeps the last tokens of each slot only: those that the next token sees, and a few before.

    Parameters
    ----------
    window : int
        How many tokens before it a token sees.
    n_spare : int
        How many more tokens are kept, so that a slot can be cut by as many without a snapshot.
    """

    def __init__(self, *args: Any, window: int = 8, n_spare: int = 4, **more: Any) -> None:
        super().__init__(*args, **more)
        self._window, self._n_spare = window, n_spare
        self._first_kept = [0] * self.n_slots

    def _run(self, batch: Batch, function: LogitsFunction, width: int) -> Floats:
        for slot in set(batch.slots.tolist()):
            assert self._has_window(slot, len(self.slots[slot])), "tokens that the next one sees were dropped"
        rows = super()._run(batch, function, width)
        for slot in set(batch.slots.tolist()):
            first = len(self.slots[slot]) - self._window - self._n_spare
            self._first_kept[slot] = max(self._first_kept[slot], first)
        return rows

    def _has_window(self, slot: int, n: int) -> bool:
        """Return whether the slot has all tokens that the token at position ``n`` sees."""
        return max(n - self._window, 0) >= self._first_kept[slot]

    def _cut(self, slot: int, n: int) -> None:
        if self._has_window(slot, n):
            super()._replace(slot, self.slots[slot][:n])
        else:
            super()._cut(slot, n)

    def _replace(self, slot: int, tokens: list[int]) -> None:
        super()._replace(slot, tokens)
        self._first_kept[slot] = max(len(tokens) - self._window, 0)

    def shift(self, slot: int, first: int, n: int) -> None:
        super().shift(slot, first, n)
        self._snapshots[slot].cut(first)
        self._first_kept[slot] = max(len(self.slots[slot]) - self._window, 0)
