"""Estimates how long steps take that continue responses, with and without drafts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median_low

import numpy as np
import numpy.typing as npt

_N_MEASUREMENTS = 5  # kept for each number of tokens
_MAX_AGE = 60.0  # seconds; older measurements are forgotten, because machines and contexts change
_FIRST_GUESS = 0.25  # of the time of a step without drafts, for each further token, until it is measured


class Median:
    """The median of the last durations of something that is measured again and again."""

    __slots__ = ("_durations", "last", "seconds")

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=_N_MEASUREMENTS)
        self.seconds = self.last = 0.0  # the median, and the time of the last measurement

    def __len__(self) -> int:
        return len(self._durations)

    def add(self, seconds: float, now: float) -> None:
        """Add a duration; forget the others if they are too old."""
        if now - self.last > _MAX_AGE:
            self._durations.clear()
        self._durations.append(seconds)
        self.seconds, self.last = median_low(self._durations), now


class StepTimes:
    """Measured durations of steps.

    Parameters
    ----------
    clock : callable
        Returns seconds since any point in time.

    Attributes
    ----------
    now : callable
        The clock.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.now = clock
        self._plain: dict[int, Median] = {}  # by number of responses
        self._wide: dict[int, Median] = {}  # by number of tokens, of steps with drafts

    def record(self, n_responses: int, n_tokens: int, seconds: float) -> None:
        """Record the duration of a step with ``n_tokens`` for ``n_responses``."""
        table = self._plain if n_tokens == n_responses else self._wide
        if n_tokens not in table:
            table[n_tokens] = Median()
        table[n_tokens].add(seconds, self.now())

    def plain(self, n_responses: int) -> float | None:
        """Return how long a step without drafts takes; None if it was not measured twice recently."""
        known = self._plain.get(n_responses)
        is_known = known is not None and len(known) > 1 and self.now() - known.last <= _MAX_AGE
        return known.seconds if is_known and known is not None else None

    def wide(self, n_responses: int, n_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return how long steps with different numbers of tokens take, of which ``n_responses`` are no drafts.

        Times between those that were measured are interpolated. `plain` must know steps without drafts.
        """
        plain = self.plain(n_responses)
        assert plain is not None  # as documented
        counts, times = [n_responses], [plain]
        for count in self._recent():
            if count > n_responses:
                counts.append(count)
                times.append(self._wide[count].seconds)

        slope = _FIRST_GUESS * plain if len(counts) == 1 else max(times[-1] - plain, 0.0) / (counts[-1] - n_responses)
        beyond = np.maximum(n_tokens - counts[-1], 0) * slope
        return np.interp(n_tokens, counts, times) + beyond

    def most_tokens(self, n_responses: int) -> int:
        """Return the largest number of tokens that was measured recently, or ``n_responses``."""
        return max(self._recent(), default=n_responses)

    def _recent(self) -> list[int]:
        """Return the numbers of tokens of steps with drafts that were measured recently, ascending."""
        oldest = self.now() - _MAX_AGE
        return sorted(count for count, known in self._wide.items() if known.last >= oldest)
