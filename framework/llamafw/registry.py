"""A table of named things that remembers which plugin each came from. It knows nothing of what the things are."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from llamafw.errors import PluginError


class Registry(Mapping[str, Any]):
    """Names to things, each with its owner, in the order they were added."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, tuple[Any, str]] = {}

    def add(self, name: str, thing: Any, /, *, owner: str) -> None:
        """Add ``thing``; PluginError if the name is taken."""
        if not isinstance(name, str) or not name:
            raise PluginError(f"plugin {owner} registers a {self.kind} under {name!r}, which is no name")
        if name in self._things:
            raise PluginError(f"{self.kind} {name!r} is registered by both {self.owner(name)} and {owner}")
        self._things[name] = (thing, owner)

    def owner(self, name: str) -> str:
        """Return the plugin that registered ``name``, as ``distribution:entry``."""
        return self._things[name][1]

    def suggest(self, name: str) -> str:
        """Return ``"; did you mean 'x'?"`` for a name that is not there, or what there is."""
        near = get_close_matches(name, self._things, n=1)
        return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(self._things) or 'none'}"

    def __getitem__(self, name: str) -> Any:
        return self._things[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
