"""Hooks that take longer than they may are reported, by the plugin's name. It knows nothing of what they do.

Only hooks on the event loop and at the start have a budget: what loads a model may take as long as it takes. Nothing is
measured per token, where no hook is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from time import perf_counter
from typing import Any

import pluggy

log = logging.getLogger("llamafw.plugins")

ON_THE_LOOP = 0.05
"""Seconds for a hook on the event loop: no answer of anybody goes on meanwhile."""

AT_THE_START = 0.25
"""Seconds for a plugin to be imported, and for each hook before the server listens."""

BUDGETS: dict[str, float] = dict.fromkeys(
    (
        "prepare_request",
        "explain_error",
        "model_loaded",
        "model_unloaded",
        "request_finished",
        "server_started",
        "server_stopping",
    ),
    ON_THE_LOOP,
)


class Watch:
    """Times hooks against their budgets, and warns: the first time, and when one takes twice as long as reported."""

    def __init__(self) -> None:
        self._reported: dict[tuple[str, str], float] = {}

    def took(self, plugin: str, what: str, seconds: float, budget: float) -> None:
        """Take note of a call."""
        if seconds > max(budget, 2 * self._reported.get((plugin, what), 0)):
            self._reported[plugin, what] = seconds
            held = "; no request moved meanwhile" if budget == ON_THE_LOOP else ""
            log.warning("plugin %s took %.0f ms in %s%s", plugin, seconds * 1e3, what, held)

    def time(self, impl: pluggy.HookImpl, hook: str) -> None:
        """Let an implementation of a hook that has a budget be timed from now on, whoever calls it."""
        budget = BUDGETS.get(hook)
        if budget is None:
            return
        plugin, function = impl.plugin_name, impl.function

        def done(seconds: float) -> None:
            self.took(plugin, hook, seconds, budget)

        timed = _timed_wrapper(function, done) if impl.wrapper else _timed(function, done)
        setattr(impl, "function", timed)  # noqa: B010  # pluggy says Final, and has no other way to stand in between


def _timed(function: Callable[..., Any], done: Callable[[float], None]) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        begun = perf_counter()
        try:
            return function(*given, **named)
        finally:
            done(perf_counter() - begun)

    return timed


def _timed_wrapper(function: Callable[..., Any], done: Callable[[float], None]) -> Callable[..., Any]:
    """Time what a wrapper does before and after the others, and not them."""

    def timed(*given: Any, **named: Any) -> Generator[Any, Any, Any]:
        generator, spent, begun = function(*given, **named), 0.0, perf_counter()
        try:
            next(generator)
            spent = perf_counter() - begun
            try:
                result = yield
            except BaseException as error:
                begun = perf_counter()
                generator.throw(error)
            else:
                begun = perf_counter()
                generator.send(result)
            raise RuntimeError("a wrapper yields once")
        except StopIteration as end:
            return end.value
        finally:
            done(spent + perf_counter() - begun)

    return timed
