"""A plugin that logs all calls of hooks and protocols, one line each: which one, and on which thread.

It replaces objects that other plugins have registered, through private attributes. Plugins should not copy this.
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
"""Name of a thread → what the documentation calls it."""

OBJECTS = {
    "sampler": "SamplerPlugin",
    "tool_parser": "ToolParserPlugin",
    "quant": "Quant",
    "architecture": "Architecture",
}
"""Registry whose objects implement a protocol → the protocol."""

FACTORIES = {
    "tokenizer": "Tokenizer",
    "backend": "Backend",
    "chat_format": "ChatFormat",
    "grammar": "GrammarCompiler",
    "drafter": "Drafter",
}
"""Registry whose objects are factories → the protocol of what they create."""

RESULTS = {
    "SamplerPlugin.create": "Sampler",
    "GrammarCompiler.compile": "Grammar",
    "ToolParserPlugin.create": "ToolParser",
}
"""Method → the protocol of what it returns."""

HOOKS = [name for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.NAME}_spec")]
"""The names of all hooks."""

_logged: set[str] = set()
_registries: dict[str, Any] = {}


def thread_name() -> str:
    """Return the documentation's name for the current thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return THREADS.get(threading.current_thread().name, "worker thread")
    return "event loop"


def log_call(kind: str, name: str) -> None:
    """Write a line to stderr: for each call of a hook, and for the first call of a method on each thread."""
    line = f"SPY {kind} {name} · {thread_name()}"
    if kind == "hook" or line not in _logged:
        _logged.add(line)
        sys.stderr.write(f"{line}\n")  # in one call, because other threads write too


class Spied:
    """Wraps an object that implements a protocol, and logs the calls of its methods."""

    def __init__(self, wrapped: Any, protocol: str) -> None:
        self.__dict__.update(_wrapped=wrapped, _protocol=protocol)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        return self._logging(name, value) if inspect.isroutine(value) else value

    def __call__(self, *args: Any) -> Any:
        return self._logging("__call__", self._wrapped)(*args)

    def _logging(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        method = f"{self._protocol}.{name}"

        def call(*args: Any, **kwargs: Any) -> Any:
            log_call("call", method)
            result = function(*args, **kwargs)
            return Spied(result, RESULTS[method]) if method in RESULTS and result is not None else result

        return call


class AcceptAll:
    """Authenticates every request."""

    async def authenticate(self, credentials: Credentials) -> User:
        return User("anyone")


def spied_factory(factory: Callable[..., Any], protocol: str) -> Callable[..., Any]:
    """Return a factory that wraps what ``factory`` creates."""
    return lambda context: Spied(factory(context), protocol)


def wrap_registered(registries: Mapping[str, Any]) -> None:
    """Replace all registered objects and factories by ones that log."""
    _registries.update(registries)
    for kind, registry in registries.items():
        for name, (registered, owner) in registry._entries.items():
            if kind in OBJECTS:
                registry._entries[name] = (Spied(registered, OBJECTS[kind]), owner)
            elif kind in FACTORIES:
                registry._entries[name] = (spied_factory(registered, FACTORIES[kind]), owner)


def hook_implementation(name: str) -> Any:
    """Return an implementation of the hook ``name`` that logs its calls."""

    def implementation(**kwargs: Any) -> Any:
        log_call("hook", name)
        match name:
            case "register_endpoints":  # all other hooks that register have been called
                wrap_registered(kwargs["app"].plugins.registries)
            case "register_authenticators":
                kwargs["register"]("spy", Spied(AcceptAll(), "Authenticator"))
            case "choose_backend":
                return "deterministic"
            case "choose_chat_format":
                return _registries["chat_format"]["chatml"](ChatContext())
        return None

    names = inspect.signature(getattr(hookspecs, name)).parameters  # pluggy reads them from the function's code
    code = f"lambda {', '.join(names)}: implementation({', '.join(f'{each}={each}' for each in names)})"
    return hookimpl(eval(code, {"implementation": implementation}))


globals().update({name: hook_implementation(name) for name in HOOKS})
