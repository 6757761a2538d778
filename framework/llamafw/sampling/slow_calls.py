"""Notice samplers and grammars that take long for a token: all requests wait for them, on the engine's only thread."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

log = logging.getLogger("llamafw.engine")

TOKEN_LIMIT = 0.1
"""Seconds that a sampler or a grammar may take for a token. Built-in ones take less than a millisecond."""


class SlowCalls:
    """Counts the tokens for which a sampler or a grammar was slow, and names the plugin in the log.

    It warns when one first exceeds the limit, and again when it takes more than twice as long as at the last warning.

    Parameters
    ----------
    owner : callable
        Returns the plugin that provides something, by its kind and name: ``owner("sampler", "top_k")``.
    """

    def __init__(self, owner: Callable[[str, str], str] = lambda kind, name: "") -> None:
        self._owner = owner
        self._counts: Counter[tuple[str, str]] = Counter()
        self._reported: dict[tuple[str, str], float] = {}

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """The number of tokens by kind and name, such as ``("sampler", "top_k")``; a copy."""
        return dict(self._counts)

    def record(self, kind: str, name: str, seconds: float) -> None:
        """Record how long something took for one token."""
        if seconds <= TOKEN_LIMIT:
            return
        self._counts[kind, name] += 1
        if seconds > 2 * self._reported.get((kind, name), 0):
            self._reported[kind, name] = seconds
            plugin = self._owner(kind, name)
            source = f" of plugin {plugin}" if plugin else ""
            message = "the %s %r%s took %.0f ms for a token; all requests waited meanwhile"
            log.warning(message, kind, name, source, seconds * 1e3)
