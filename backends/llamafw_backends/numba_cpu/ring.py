"""A cache for attention with a window: it keeps the last positions of each slot, position p at p modulo its size.

Later positions overwrite earlier ones, so a slot can only be cut where the window before the cut is still there.
Further back it needs a copy of a window, which is what snapshots and saved states contain.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamafw import Bytes
from llamafw_backends.numba_cpu.cache_arrays import CacheArrays
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.pages import whole_pages

_SLACK = 64  # positions by which a slot can be cut at any time, whatever the ubatch size


def ring_size(window: int, n_ubatch: int, n_ctx: int) -> int:
    """Return how many positions of a slot a cache keeps, a number of whole pages.

    The tokens of a ubatch are written before attention reads the windows of all of them.
    """
    return min(whole_pages(window + n_ubatch + _SLACK), whole_pages(n_ctx))


@dataclass(frozen=True, slots=True)
class Ring:
    """The last positions of all slots in a cache."""

    cache: CacheArrays
    window: int

    def first(self, n: int) -> int:
        """Return the first position that the token at position ``n`` may see."""
        return max(0, n - self.window + 1)

    def earliest(self, n: int) -> int:
        """Return the earliest position that a slot can go back to, after it has computed ``n`` positions."""
        n_lost = n - self.cache.n_positions
        return n_lost + self.window - 1 if n_lost > 0 else 0

    def n_bytes(self, n: int) -> int:
        """Return the size of a copy of the window before position ``n``."""
        return self.cache.n_bytes(self.first(n), n)

    def max_bytes(self, n: int) -> int:
        """Return the largest size of a copy of a window, of a slot that has had at most ``n`` positions."""
        n_positions = min(n, self.window - 1)
        last = min(LANES - 1 + n_positions, n)  # it has the most blocks if its first position is the last of a block
        return self.cache.n_bytes(last - n_positions, last)

    def copy(self, slot: int, n: int) -> Bytes:
        """Return a copy of the window before position ``n``."""
        return self.cache.copy(slot, self.first(n), n)

    def write(self, slot: int, n: int, copied: Bytes) -> None:
        """Write a copy of the window before position ``n``."""
        self.cache.write(slot, self.first(n), n, copied)
