"""Whose code an exception came from, and how often whose failed. It knows plugins by their names and modules only."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Literal

from llamafw.hookspecs import NAME

Place = Literal["import", "registration", "startup", "request", "token", "event"]
"""Where a plugin failed. ``token``: while an answer was computed, in a sampler, a grammar or a backend."""


class Blame:
    """Failures by plugin and place, since the start. Any thread may report one."""

    def __init__(self) -> None:
        self._modules: dict[str, str] = {}  # module, or package → plugin
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def failures(self) -> Mapping[tuple[str, str], int]:
        """How often each plugin failed at each place."""
        with self._lock:
            return dict(self._counts)

    def know(self, plugin: str, module: str) -> None:
        """Remember that the code of ``module``, and of its package if no other plugin is from there, is a plugin's."""
        self._modules[module] = plugin
        package = module.partition(".")[0]
        if package != NAME:  # which is the framework's
            self._modules.setdefault(package, plugin)

    def count(self, plugin: str, place: Place) -> None:
        """Note one more failure."""
        with self._lock:
            self._counts[plugin, place] += 1

    def culprit(self, error: BaseException) -> str | None:
        """Return the plugin whose code was the innermost to run when ``error``, or what caused it, was raised.

        None if no plugin's code was at work.
        """
        causes = list(_chain(error, "__cause__"))
        for one in (*reversed(causes), *_chain(causes[-1].__context__, "__context__")):
            for module in reversed(list(_modules(one.__traceback__))):
                if (plugin := self._owner(module)) is not None:
                    return plugin
        return None

    def _owner(self, module: str) -> str | None:
        while module not in self._modules and module:
            module = module.rpartition(".")[0]
        return self._modules.get(module)


def _chain(error: BaseException | None, by: Literal["__cause__", "__context__"]) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, by)


def _modules(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield str(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
