"""A table of named things that remembers which plugin each came from. Of the things it knows what they must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import isfunction
from typing import Any

from llamafw.errors import PluginError, suggest
from llamafw.interfaces import Quant, SamplerPlugin, ToolParserPlugin
from llamafw.serving import Authenticator

PROTOCOLS: Mapping[str, type] = {
    "sampler": SamplerPlugin,
    "tool_parser": ToolParserPlugin,
    "quant": Quant,
    "authenticator": Authenticator,
}
"""What is registered as it is; of most kinds it is a factory."""


class Clash(PluginError):
    """Two plugins want the same name."""


class Registry(Mapping[str, Any]):
    """Names to things, each with its owner, in the order they were added."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, tuple[Any, str]] = {}

    def add(self, name: str, thing: Any, /, *, owner: str) -> None:
        """Add ``thing``; PluginError if the name is taken."""
        if not isinstance(name, str) or not name:
            raise PluginError(f"plugin {owner} registers a {self.kind} under {name!r}, which is no name")
        if self.kind in PROTOCOLS and (lacking := missing(thing, PROTOCOLS[self.kind])):
            raise PluginError(f"plugin {owner} registers the {self.kind} {name!r}, which has no {', '.join(lacking)}")
        if self.kind not in PROTOCOLS and self.kind != "field" and not callable(thing):
            raise PluginError(f"plugin {owner} registers the {self.kind} {name!r}, which cannot be called: {thing!r}")
        if name in self._things:
            raise Clash(f"{self.kind} {name!r} is registered by both {self.owner(name)} and {owner}")
        self._things[name] = (thing, owner)

    def remove(self, owner: str) -> None:
        """Forget everything that a plugin has registered."""
        self._things = {name: thing for name, thing in self._things.items() if thing[1] != owner}

    def owner(self, name: str) -> str:
        """Return the plugin that registered ``name``, as ``distribution:entry``."""
        return self._things[name][1]

    def suggest(self, name: str) -> str:
        """Return ``"; did you mean 'x'?"`` for a name that is not there, or what there is."""
        return suggest(name, self._things)

    def __getitem__(self, name: str) -> Any:
        return self._things[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def missing(thing: Any, protocol: type) -> list[str]:
    """Return the names of a protocol's members that ``thing`` does not have."""
    functions = [name for name, member in vars(protocol).items() if not name.startswith("_") and _is_member(member)]
    return [name for name in (*vars(protocol).get("__annotations__", ()), *functions) if not hasattr(thing, name)]


def _is_member(value: Any) -> bool:
    return isfunction(value) or isinstance(value, classmethod | property)
