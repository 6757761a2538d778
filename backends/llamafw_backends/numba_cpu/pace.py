"""How many threads a decoding step is worth, found out while running. It knows nothing of kernels.

A step has a hundred barriers. When other processes want the cores (the server's own event loop is enough), threads lose
theirs in turn, each barrier waits for whoever was last, and two threads can be three times slower than one. Since any
number gives the same logits, the quickest is used, and its neighbours are tried now and then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median_low

TRIAL_COST = 0.02  # of all time, for each neighbour
REMEMBERED = 5  # measurements


class Pace:
    """Chooses among ``most``, half of it, a quarter …, 1 threads, for steps of about as many tokens.

    Parameters
    ----------
    most : int
        What the user allows.
    clock : callable
        Seconds, from any start.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._counts = [most >> i for i in range(most.bit_length())]
        self._clock = clock
        self._sizes: dict[int, _Size] = {}

    def choose(self, n_tokens: int) -> int:
        """Return how many threads to use for a step of ``n_tokens``."""
        return self._counts[self._size(n_tokens).choose(self._clock())]

    def record(self, n_tokens: int, n_threads: int, seconds: float) -> None:
        """Take note of what a step took."""
        self._size(n_tokens).record(self._counts.index(n_threads), seconds / n_tokens, seconds, self._clock())

    def _size(self, n_tokens: int) -> _Size:
        return self._sizes.setdefault(n_tokens.bit_length(), _Size(len(self._counts)))


class _Size:
    """Measurements for one size of steps: up to twice as many tokens."""

    def __init__(self, n: int) -> None:
        self._latest: list[deque[float]] = [deque(maxlen=REMEMBERED) for _ in range(n)]  # seconds per token
        self._trial_at = [0.0] * n  # when each may be tried again

    def _best(self) -> int | None:
        # medians: one step that lost its core says nothing
        known = [(median_low(latest), i) for i, latest in enumerate(self._latest) if latest]
        return min(known)[1] if known else None

    def choose(self, now: float) -> int:
        best = self._best()
        if best is None:
            return 0
        for i in (best - 1, best + 1):
            if 0 <= i < len(self._trial_at) and now >= self._trial_at[i]:
                return i
        return best

    def record(self, i: int, per_token: float, seconds: float, now: float) -> None:
        if i != self._best():  # a trial: what was before is long ago
            self._latest[i].clear()
        self._latest[i].append(per_token)
        quickest = min(median_low(latest) for latest in self._latest if latest)
        wasted = max(0.0, 1 - quickest / per_token) * seconds
        self._trial_at[i] = now + wasted / TRIAL_COST
