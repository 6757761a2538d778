"""Holds the snapshots of a slot, for backends whose slots cannot be cut anywhere.

Independent of what a snapshot consists of.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

State = TypeVar("State")


class Snapshots(Generic[State]):
    """Copies of the state of one slot, by position.

    If there are too many, some are removed so that the gaps between the others grow in proportion to their distance
    from the end. The fewer positions a cut removes, the closer is the next snapshot.

    Parameters
    ----------
    limit : int
        Maximum number of snapshots, at least 1; see `llamafw.BackendOptions`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: tuple[int, State] | None = None
        self._states: dict[int, State] = {}
        self._positions: list[int] = []  # ascending

    def __len__(self) -> int:
        """Return the number of snapshots."""
        return len(self._positions)

    def __iter__(self) -> Iterator[tuple[int, State]]:
        """Yield the position and the state of each snapshot, in the order of positions."""
        for position in self._positions:
            yield position, self._states[position]

    @property
    def positions(self) -> list[int]:
        """The positions of all snapshots, ascending."""
        return self._positions.copy()

    def add(self, position: int, state: State) -> None:
        """Add the ``state`` of the slot at ``position``, or replace the one that is there.

        If there are too many snapshots now, another one is removed.
        """
        if position not in self._states:
            insort(self._positions, position)
        self._states[position] = state
        while len(self._positions) > max(self.limit, 1):
            self._remove(self._least_useful(position))

    def hold(self, position: int, state: State) -> None:
        """Keep the ``state`` of the slot at ``position`` until the next call.

        It is no snapshot: only `last` finds it.
        """
        self._held = (position, state)

    def last(self, n: int) -> tuple[int, State] | None:
        """Return the position and the state of the last snapshot of at most ``n`` positions; None if there is none.

        The state that is held counts, too.
        """
        i = bisect_right(self._positions, n)
        position = self._positions[i - 1] if i else -1
        if self._held is not None and position < self._held[0] <= n:
            return self._held
        return (position, self._states[position]) if i else None

    def cut(self, n: int) -> None:
        """Remove the snapshots of more than ``n`` positions, and the state that is held if it has more."""
        if self._held is not None and self._held[0] > n:
            self._held = None
        while self._positions and self._positions[-1] > n:
            self._remove(self._positions[-1])

    def _remove(self, position: int) -> None:
        self._positions.remove(position)
        del self._states[position]

    def _least_useful(self, newest: int) -> int:
        """Return the position whose removal makes the smallest gap in proportion to its distance from the end."""
        end = self._positions[-1]
        neighbours = zip([0, *self._positions], self._positions, [*self._positions[1:], end], strict=False)
        gaps = {
            position: (after - before) / max(end - position, 1)
            for before, position, after in neighbours
            if position not in (newest, end)
        }
        return min(gaps, key=gaps.__getitem__, default=end)
