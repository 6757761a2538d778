"""A plugin that tells of every hook and of calls of protocols: which, and on which thread. It prints one line each.

It looks at the things of other plugins from within, so it is no example.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from llamafw import ChatContext, Credentials, User, hookimpl, hookspecs

THREADS = {"MainThread": "main thread", "llamafw-load": "loading thread", "llamafw-engine": "engine thread"}
MADE = {"tokenizer": "Tokenizer", "backend": "Backend", "chat_format": "ChatFormat", "grammar": "GrammarCompiler"}
HERE = {"sampler": "SamplerPlugin", "tool_parser": "ToolParserPlugin", "quant": "Quant", "architecture": "Architecture"}
INNER = {
    "SamplerPlugin.create": "Sampler",
    "GrammarCompiler.compile": "Grammar",
    "ToolParserPlugin.create": "ToolParser",
}
ANSWERS = {"choose_backend": "deterministic"}
_told: set[str] = set()
_registries: dict[str, Any] = {}


def thread() -> str:
    """The name that the documentation has for this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return THREADS.get(threading.current_thread().name, "worker thread")
    return "event loop"


def tell(kind: str, name: str) -> None:
    line = f"SPY {kind} {name} · {thread()}"
    if kind == "hook" or line not in _told:  # of millions of calls the first of each kind will do
        _told.add(line)
        sys.stderr.write(f"{line}\n")  # at once: other threads write, too


class Spied:
    """A thing, whose calls are told."""

    def __init__(self, thing: Any, protocol: str) -> None:
        self.__dict__.update(_thing=thing, _protocol=protocol)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        return self._told(name, value) if inspect.isroutine(value) else value

    def __call__(self, *given: Any) -> Any:
        return self._told("__call__", self._thing)(*given)

    def _told(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        place = f"{self._protocol}.{name}"

        def call(*given: Any, **named: Any) -> Any:
            tell("call", place)
            result = function(*given, **named)
            return Spied(result, INNER[place]) if place in INNER and result is not None else result

        return call


class Anyone:
    """Knows everybody."""

    async def authenticate(self, credentials: Credentials) -> User:
        return User("anyone")


def spied_factory(factory: Callable[..., Any], protocol: str) -> Callable[..., Any]:
    return lambda context: Spied(factory(context), protocol)


def spy(name: str) -> Any:
    """An implementation of the hook ``name`` that tells of it and leaves the answer to others."""

    def heard(**given: Any) -> Any:
        tell("hook", name)
        if name == "register_endpoints":
            watch(given["app"].plugins.registries)
        if name == "register_authenticators":
            given["register"]("spy", Spied(Anyone(), "Authenticator"))
        if name == "choose_chat_format":
            return _registries["chat_format"]["chatml"](ChatContext())
        return ANSWERS.get(name)

    names = inspect.signature(getattr(hookspecs, name)).parameters  # which pluggy reads from the code itself
    code = f"lambda {', '.join(names)}: heard({', '.join(f'{one}={one}' for one in names)})"
    return hookimpl(eval(code, {"heard": heard}))


def watch(registries: Mapping[str, Any]) -> None:
    _registries.update(registries)
    for kind, registry in registries.items():
        for name, (thing, owner) in registry._entries.items():
            if kind in HERE:
                registry._entries[name] = (Spied(thing, HERE[kind]), owner)
            elif kind in MADE:
                registry._entries[name] = (spied_factory(thing, MADE[kind]), owner)


HOOKS = [name for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.NAME}_spec")]
globals().update({name: spy(name) for name in HOOKS})
