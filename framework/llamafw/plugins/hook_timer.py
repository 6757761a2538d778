"""Measures hooks and warns about slow ones.

Only hooks on the event loop and hooks before the server listens have a time limit. Loading a model may take long, and
no hook is called per token, so neither is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from time import perf_counter
from typing import Any

import pluggy

log = logging.getLogger("llamafw.plugins")

EVENT_LOOP_LIMIT = 0.05
"""Seconds for a hook on the event loop, where it blocks all requests."""

STARTUP_LIMIT = 0.25
"""Seconds for the import of a plugin, and for each of its hooks before the server listens."""

LIMITS: dict[str, float] = dict.fromkeys(
    (
        "prepare_request",
        "explain_error",
        "model_loaded",
        "model_unloaded",
        "request_finished",
        "server_started",
        "server_stopping",
    ),
    EVENT_LOOP_LIMIT,
)
"""Hooks that `HookTimer.wrap` measures, with their limits in seconds."""


class HookTimer:
    """Compares the times of hooks with their limits.

    It warns when a plugin first exceeds a limit, and again when a call takes more than twice as long as at the last
    warning.
    """

    def __init__(self) -> None:
        self._reported: dict[tuple[str, str], float] = {}

    def record(self, plugin: str, action: str, seconds: float, limit: float) -> None:
        """Compare the time of one call with its limit.

        Parameters
        ----------
        plugin : str
            The plugin that was called.
        action : str
            The hook, or ``"its import"``, for the warning.
        seconds, limit : float
            How long the call took, and how long it may take.
        """
        if seconds > max(limit, 2 * self._reported.get((plugin, action), 0)):
            self._reported[plugin, action] = seconds
            effect = "; all requests were blocked meanwhile" if limit == EVENT_LOOP_LIMIT else ""
            log.warning("plugin %s took %.0f ms in %s%s", plugin, seconds * 1e3, action, effect)

    def wrap(self, impl: pluggy.HookImpl, hook: str) -> None:
        """Measure every call of a hook implementation from now on, if the hook has a limit."""
        limit = LIMITS.get(hook)
        if limit is None:
            return
        plugin, function = impl.plugin_name, impl.function

        def record(seconds: float) -> None:
            self.record(plugin, hook, seconds, limit)

        timed = _timed_wrapper(function, record) if impl.wrapper else _timed(function, record)
        setattr(impl, "function", timed)  # noqa: B010  # Final in pluggy, which offers no other way to wrap a function


def _timed(function: Callable[..., Any], record: Callable[[float], None]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            record(perf_counter() - start)

    return timed


def _timed_wrapper(function: Callable[..., Any], record: Callable[[float], None]) -> Callable[..., Any]:
    """Measure a hook wrapper without the time of the implementations that it wraps."""

    def timed(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator, spent, start = function(*args, **kwargs), 0.0, perf_counter()
        try:
            next(generator)
            spent = perf_counter() - start
            try:
                result = yield
            except BaseException as error:
                start = perf_counter()
                generator.throw(error)
            else:
                start = perf_counter()
                generator.send(result)
            raise RuntimeError("a hook wrapper must yield exactly once")
        except StopIteration as end:
            return end.value
        finally:
            record(spent + perf_counter() - start)

    return timed
