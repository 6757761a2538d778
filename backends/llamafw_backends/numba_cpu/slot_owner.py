"""The methods of a backend that change or copy what a slot keeps."""

from __future__ import annotations

from collections.abc import Sequence

from llamafw import Bytes
from llamafw_backends.numba_cpu.slots import Slots


class SlotOwner:
    """Passes the calls on to `Slots`."""

    _slot_contents: Slots

    def truncate(self, slot: int, n: int) -> int:
        """Remove all positions of ``slot`` from ``n`` on; return how many are left."""
        return self._slot_contents.truncate(slot, n)

    def share_prefix(self, source: int, target: int, n: int) -> None:
        """Replace the contents of ``target`` by the first ``n`` positions of ``source``; see `Slots.share_prefix`."""
        self._slot_contents.share_prefix(source, target, n)

    def take_snapshot(self, slot: int) -> None:
        """Keep a copy of what cannot be cut of ``slot``, for `truncate`."""
        self._slot_contents.take_snapshot(slot)

    def hold_state(self, slot: int) -> None:
        """Keep the state of ``slot`` at its end until the next call, besides its snapshots."""
        self._slot_contents.hold_state(slot)

    def snapshots(self, slot: int) -> Sequence[int]:
        """Return the positions of the snapshots of ``slot``, ascending."""
        return self._slot_contents.snapshots(slot)

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove positions ``first`` … ``first + n - 1`` of ``slot``; later ones move down, with their keys rotated."""
        self._slot_contents.shift(slot, first, n)

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions; with snapshots, the largest possible."""
        return self._slot_contents.state_size(n)

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the state of the first ``n`` positions of ``slot``, (n_bytes,) uint8."""
        return self._slot_contents.save(slot, n)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by ``n`` positions that `save` returned; see `Slots.restore`."""
        self._slot_contents.restore(slot, n, state)
