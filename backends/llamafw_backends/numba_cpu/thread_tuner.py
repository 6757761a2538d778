"""Measure how many threads decode fastest.

Independent of kernels.

A decoding step has at least five barriers per layer. When other processes need the cores (the server's own event loop
is enough), threads lose their cores one after the other, each barrier waits for the last thread, and two threads can be
three times slower than one. Every number of threads gives the same logits, so the fastest is used, and its neighbours
are tried from time to time.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from statistics import median_low

TRIAL_COST = 0.02  # share of the time that may be lost by trying a neighbour
N_MEASUREMENTS = 5  # kept for each number of threads


class ThreadTuner:
    """Chooses the number of threads: ``max_threads``, half of it, a quarter … or 1, separately for each size of steps.

    Parameters
    ----------
    max_threads : int
        The number of threads that the user allows.
    clock : callable
        Returns seconds since any point in time.
    """

    def __init__(self, max_threads: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._counts = [max_threads >> i for i in range(max_threads.bit_length())]
        self._clock = clock
        self._sizes: dict[int, _StepSize] = {}

    def choose(self, n_tokens: int) -> int:
        """Return the number of threads for a step of ``n_tokens``."""
        return self._counts[self._size(n_tokens).choose(self._clock())]

    def record(self, n_tokens: int, n_threads: int, seconds: float) -> None:
        """Record the duration of a step."""
        self._size(n_tokens).record(self._counts.index(n_threads), seconds / n_tokens, seconds, self._clock())

    def _size(self, n_tokens: int) -> _StepSize:
        """Return the measurements of a size; a new one begins with the best number of threads of the next smaller."""
        bits = n_tokens.bit_length()
        if bits not in self._sizes:
            smaller = max((size for size in self._sizes if size < bits), default=None)
            first = 0 if smaller is None else self._sizes[smaller].best or 0
            self._sizes[bits] = _StepSize(len(self._counts), first)
        return self._sizes[bits]


class _StepSize:
    """The measurements of steps of a similar size: 2^k to 2^(k + 1) − 1 tokens."""

    def __init__(self, n_counts: int, first: int = 0) -> None:
        self._first = first  # the index to begin with
        self._measured: list[deque[float]] = [
            deque(maxlen=N_MEASUREMENTS) for _ in range(n_counts)
        ]  # seconds per token
        self._medians = [math.inf] * n_counts  # of these; a single step may be slow for other reasons
        self._next_trial = [0.0] * n_counts  # time at which each number may be tried again

    @property
    def best(self) -> int | None:
        """The index of the fastest number of threads; None if nothing was measured."""
        fastest = min(self._medians)
        return None if fastest == math.inf else self._medians.index(fastest)

    def choose(self, now: float) -> int:
        """Return the index of the fastest number of threads, or of a neighbour that is due for a trial."""
        best = self.best
        if best is None:
            return self._first
        for i in (best - 1, best + 1):
            if 0 <= i < len(self._next_trial) and now >= self._next_trial[i]:
                return i
        return best

    def record(self, i: int, per_token: float, seconds: float, now: float) -> None:
        """Record a step, and schedule the next trial of ``i``: the more time this one lost, the later."""
        if i != self.best:  # a trial: earlier measurements are out of date
            self._measured[i].clear()
        self._measured[i].append(per_token)
        self._medians[i] = median_low(self._measured[i])
        lost = max(0.0, 1 - min(self._medians) / per_token) * seconds
        self._next_trial[i] = now + lost / TRIAL_COST
