"""A cache for attention with a window: it keeps the last positions of each slot, position p at p modulo its size.

Later positions overwrite earlier ones, so a slot can only be cut where the window before the cut is still there.
Further back it needs a copy of a window, which is what snapshots and saved states contain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Bytes
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.memory import padded_context

_SLACK = 64  # positions by which a slot can be cut at any time, whatever the ubatch size

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


def ring_size(window: int, n_ubatch: int, n_ctx: int) -> int:
    """Return how many positions of a slot a cache keeps, a multiple of 16.

    The tokens of a ubatch are written before attention reads the windows of all of them.
    """
    return min(padded_context(window + n_ubatch + _SLACK), padded_context(n_ctx))


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys and values of the last positions of all slots."""

    keys: tuple[Array, ...]  # words and scales, (n_slots, n_head, n_blocks, n, 16)
    values: Array  # (n_slots, n_head, size, n)
    window: int

    @property
    def size(self) -> int:
        """Number of positions that are kept of a slot."""
        return int(self.values.shape[2])

    def first(self, n: int) -> int:
        """Return the first position that the token at position ``n`` may see."""
        return max(0, n - self.window + 1)

    def earliest(self, n: int) -> int:
        """Return the earliest position that a slot can go back to, after it has computed ``n`` positions."""
        n_lost = n - self.size
        return n_lost + self.window - 1 if n_lost > 0 else 0

    def n_bytes(self, n: int) -> int:
        """Return the size of a copy of the window before position ``n``."""
        return self._n_bytes(n - self.first(n), len(self._blocks(n)))

    def max_bytes(self, n: int) -> int:
        """Return the largest size of a copy of a window, of a slot that has had at most ``n`` positions."""
        n_positions = min(n, self.window - 1)
        return self._n_bytes(n_positions, min((n_positions + 14) // LANES + 1, -(-n // LANES)))

    def copy(self, slot: int, n: int) -> Iterator[Bytes]:
        """Yield the parts of a copy of the window before position ``n``.

        The first parts are the words and the scales of the keys, in whole blocks with zeros for other positions, the
        last one the values.
        """
        for part in self.keys:
            keys = part[slot][:, self._blocks(n)]
            if keys.size:
                keys[:, 0, :, : self.first(n) % LANES] = 0
                keys[:, -1, :, (n - 1) % LANES + 1 :] = 0
            yield keys.reshape(-1).view(np.uint8)
        yield self.values[slot][:, self._positions(n)].reshape(-1).view(np.uint8)

    def write(self, slot: int, n: int, copied: Bytes) -> None:
        """Write a copy of the window before position ``n``."""
        start = 0
        places = [self._blocks(n)] * len(self.keys) + [self._positions(n)]
        for whole, chosen in zip((*self.keys, self.values), places, strict=True):
            shape = whole.shape[1], len(chosen), *whole.shape[3:]
            end = start + math.prod(shape) * whole.itemsize
            whole[slot][:, chosen] = copied[start:end].view(whole.dtype).reshape(shape)
            start = end

    def _blocks(self, n: int) -> Indices:
        """Return where the blocks with the window before position ``n`` are."""
        return np.arange(self.first(n) // LANES, -(-n // LANES)) % (self.size // LANES)

    def _positions(self, n: int) -> Indices:
        """Return where the positions of the window before position ``n`` are."""
        return np.arange(self.first(n), n) % self.size

    def _n_bytes(self, n_positions: int, n_blocks: int) -> int:
        """Return the size of the keys of some blocks, and the values of some positions."""
        return n_blocks * sum(part[0, :, 0].nbytes for part in self.keys) + n_positions * self.values[0, :, 0].nbytes
