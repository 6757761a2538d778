"""Counts the failures of plugins and finds out which plugin caused one.

This module knows only the names of plugins and of their modules.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

from llamafw.errors import LlamafwError, PluginError
from llamafw.hookspecs import NAME

Place = Literal["import", "registration", "startup", "request", "token", "event"]
"""When a plugin failed. ``token``: while tokens were computed, in a sampler, a grammar or a backend."""

_CALLERS = (f"{NAME}.", "pluggy.", "importlib")
"""Prefixes of the modules that call a plugin: their frames come first in a traceback."""


class FailureLog:
    """The number of failures of each plugin since the start.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._plugins: dict[str, str] = {}  # module or package → plugin
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """The number of failures by plugin and `Place`; a copy."""
        with self._lock:
            return dict(self._counts)

    def add_module(self, plugin: str, module: str) -> None:
        """Remember that a module belongs to a plugin.

        The module's package then belongs to this plugin too, unless another plugin has it already.
        """
        self._plugins[module] = plugin
        package = module.partition(".")[0]
        if package != NAME:  # the framework's own package belongs to no plugin
            self._plugins.setdefault(package, plugin)

    def count(self, plugin: str, place: Place) -> None:
        """Count a failure."""
        with self._lock:
            self._counts[plugin, place] += 1

    def responsible_plugin(self, error: BaseException) -> str | None:
        """Return the plugin that raised ``error`` or the exception that caused it; None if no plugin did.

        If code of several plugins was running, this is the plugin that was called last.
        """
        causes = list(_chain(error, "__cause__"))
        for exception in (*reversed(causes), *_chain(causes[-1].__context__, "__context__")):
            for frame in reversed(list(_frames(exception.__traceback__))):
                if (plugin := self.owner(_module(frame))) is not None:
                    return plugin
        return None

    def owner(self, module: str) -> str | None:
        """Return the plugin that a module belongs to; None if it belongs to no plugin."""
        while module not in self._plugins and module:
            module = module.rpartition(".")[0]
        return self._plugins.get(module)


def describe(error: BaseException) -> str:
    """Return an exception as one line: its type, its message and where it was raised.

    A `LlamafwError` is raised on purpose, so its message alone is enough.
    """
    if isinstance(error, LlamafwError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        text += _location(error)
    return " ".join(text.split())


def hook_error(plugin: str, hook: str, error: BaseException) -> PluginError:
    """Return the error that says which plugin failed in which hook, and why."""
    return PluginError(f"plugin {plugin} failed in {hook}: {describe(error)}")


def plugin_traceback(error: BaseException) -> TracebackType | None:
    """Return the part of a traceback that begins in the plugin's code; None if the plugin's code was not reached."""
    for frame in _frames(error.__traceback__):
        if not _module(frame).startswith(_CALLERS):
            return frame
    return None


def exc_info(
    error: BaseException, show: bool
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    """Return the value of ``exc_info`` for `logging`: the error with the plugin's part of its traceback.

    Without ``show``, this is None, and nothing is logged.
    """
    return (type(error), error, plugin_traceback(error) or error.__traceback__) if show else None


def drop_context(error: BaseException, handled: BaseException | None) -> None:
    """Remove ``handled`` from the exceptions that led to ``error``.

    It was already being handled when the plugin was called. It has nothing to do with the failure, but its traceback
    would be logged.
    """
    while error.__context__ is not None and error.__context__ is not handled:
        error = error.__context__
    error.__context__ = None


def _location(error: BaseException) -> str:
    """Return ``" (file.py:7)"``, the last line that ran in the plugin's file; "" if unknown."""
    first = plugin_traceback(error)
    if first is None or isinstance(error, SyntaxError):  # the message of a SyntaxError has the line already
        return ""
    file = first.tb_frame.f_code.co_filename
    lines = [frame.tb_lineno for frame in _frames(first) if frame.tb_frame.f_code.co_filename == file]
    return f" ({Path(file).name}:{lines[-1]})"


def _chain(error: BaseException | None, by: Literal["__cause__", "__context__"]) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, by)


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _module(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__", ""))
