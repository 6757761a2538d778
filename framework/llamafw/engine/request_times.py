"""The times of a generation request, from which its `Timings` are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

from llamafw.types import Timings


class RequestTimes:
    """When a request arrived, started and drew tokens.

    The time during which it is interrupted counts as time in the queue.

    Parameters
    ----------
    arrived : float, optional
        Time of arrival, from ``clock``; default: now.
    clock : callable
        Returns seconds since any point in time.
    """

    __slots__ = ("_clock", "_first", "_last", "_paused", "_started", "arrived")

    def __init__(self, arrived: float | None = None, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self.arrived = clock() if arrived is None else arrived
        self._started = self.arrived
        self._first: float | None = None
        self._paused: float | None = None  # since when it is interrupted
        self._last = self.arrived

    def start(self) -> None:
        """Record that the evaluation of the prompt begins."""
        self._started = self._clock()

    def draw(self) -> None:
        """Record that a token was drawn."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last

    def pause(self) -> None:
        """Record that the request is interrupted."""
        self._paused = self._clock()

    def resume(self) -> None:
        """Record that the request continues."""
        seconds, self._paused = self._seconds_paused, None
        self._started += seconds
        self._last += seconds
        if self._first is not None:
            self._first += seconds

    @property
    def _seconds_paused(self) -> float:
        """Seconds since the interruption that has not ended."""
        return 0.0 if self._paused is None else self._clock() - self._paused

    @property
    def prompt_ms_so_far(self) -> float:
        """Milliseconds since the evaluation of the prompt began."""
        return (self._clock() - self._started - self._seconds_paused) * 1e3

    @property
    def predicted_ms(self) -> float:
        """Milliseconds from the first token to the last."""
        return 0.0 if self._first is None else (self._last - self._first) * 1e3

    def timings(self, counts: Mapping[str, int]) -> Timings:
        """Return the timings so far, with numbers of tokens."""
        prompt_ms = self.prompt_ms_so_far if self._first is None else (self._first - self._started) * 1e3
        queue_ms = (self._started - self.arrived + self._seconds_paused) * 1e3
        return Timings(prompt_ms=prompt_ms, predicted_ms=self.predicted_ms, queue_ms=queue_ms, **counts)
