"""Find plugins, check them, and let them fill the registries. It knows nothing of what they register."""
from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from llamafw import hookspecs
from llamafw.errors import LlamafwError, PluginError
from llamafw.registry import Registry

KINDS = ("command", "sampler", "chat_format", "tokenizer", "architecture", "quant", "backend")
"""What is registered once per process; endpoints are registered when the application is built."""


@dataclass(slots=True)
class Found:
    """One plugin, loaded or not."""

    name: str  # distribution:entry, or what --plugin was given
    distribution: str
    version: str
    hooks: list[str] = field(default_factory=list)
    registered: dict[str, list[str]] = field(default_factory=dict)  # kind → names
    error: str | None = None


class Plugins:
    """The plugins of this process and what they registered.

    Parameters
    ----------
    extra : iterable of str
        Plugins to load besides those installed: a module's name, or the path of a ``.py`` file. The name of an
        installed plugin is allowed and changes nothing.
    block : collection of str
        Plugins to leave out: ``distribution:entry``, entry or distribution.
    tolerant : bool
        True: a plugin that fails is left out, its error kept in `found` (for listings). False: PluginError.
    """

    def __init__(self, *, extra: Iterable[str] = (), block: Collection[str] = (), tolerant: bool = False) -> None:
        self.pm = pluggy.PluginManager(hookspecs.NAME)
        self.pm.add_hookspecs(hookspecs)
        self.found: dict[str, Found] = {}
        self.registries = {kind: Registry(kind) for kind in KINDS}
        self._tolerant = tolerant
        installed = discover()
        blocked = set(block)
        self._check_blocked(blocked, installed)
        for entry in installed:
            if not blocked & _names(entry):
                self._load(full_name(entry), entry.load, entry.dist.version if entry.dist else "?")
        known = {name for entry in installed for name in _names(entry)}
        for name in extra:
            if name not in known and name not in self.found:
                self._load(name, partial(_import, name), "?")
        for registry in self.registries.values():
            self.fill(registry)

    @property
    def hook(self) -> Any:
        """Pluggy's hook callers, by name."""
        return self.pm.hook

    def registry(self, kind: str) -> Registry:
        """Return the registry of one of `KINDS`."""
        return self.registries[kind]

    def fill(self, registry: Registry, **context: Any) -> None:
        """Call ``register_<kind>s`` of one plugin after another, so that an error can name its author."""
        hook = getattr(self.hook, f"register_{registry.kind}s")
        for impl in hook.get_hookimpls():
            found = self.found[impl.plugin_name]
            if found.error:
                continue
            given = {"register": partial(registry.add, owner=found.name), **context}
            try:
                impl.function(**{name: given[name] for name in impl.argnames})
            except Exception as exc:
                self._fail(found, f"failed in {hook.name}", exc)
            names = [name for name in registry if registry.owner(name) == found.name]
            if names:
                found.registered[registry.kind] = names

    def _load(self, name: str, load: Any, version: str) -> None:
        found = self.found[name] = Found(name, name.partition(":")[0], version)
        try:
            plugin = load()
            self._check_hooks(plugin, name)
            self.pm.register(plugin, name=name)
        except Exception as exc:
            return self._fail(found, "cannot be loaded", exc)
        found.hooks = sorted(caller.name for caller in self.pm.get_hookcallers(plugin) or ())

    def _check_hooks(self, plugin: Any, name: str) -> None:
        """Pluggy ignores a hook it does not know; a typing error would go unnoticed."""
        known = [hook for hook in vars(self.hook) if not hook.startswith("_")]
        for attribute in dir(plugin):
            if self.pm.parse_hookimpl_opts(plugin, attribute) is not None and attribute not in known:
                near = get_close_matches(attribute, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise PluginError(f"it implements {attribute!r}, which is no hook of llamafw{hint}")

    def _fail(self, found: Found, what: str, exc: Exception) -> None:
        cause = str(exc) if isinstance(exc, LlamafwError) else f"{type(exc).__name__}: {exc}"
        message = f"plugin {found.name} {what}: {cause}"
        if not self._tolerant:
            raise PluginError(f"{message} (start without it: --no-plugin {found.name})") from exc
        found.error = message
        if self.pm.has_plugin(found.name):
            self.pm.unregister(name=found.name)

    def _check_blocked(self, blocked: set[str], installed: Iterable[EntryPoint]) -> None:
        known = {name for entry in installed for name in _names(entry)}
        for name in sorted(blocked - known):
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PluginError(f"--no-plugin {name}: no such plugin is installed{hint}")


def discover() -> list[EntryPoint]:
    """Return all installed plugins: ours first, the others by name, whatever order the disk has them in."""
    return sorted(
        set(entry_points(group=hookspecs.NAME)),
        key=lambda entry: (_distribution(entry) != hookspecs.NAME, full_name(entry)),
    )


def full_name(entry: EntryPoint) -> str:
    """Return ``distribution:entry``, which, unlike the entry's own name, is unique."""
    return f"{_distribution(entry)}:{entry.name}"


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"


def _names(entry: EntryPoint) -> set[str]:
    """The names a user may call an installed plugin by. Ours are many, so ``llamafw`` alone names none of them."""
    names = {full_name(entry), entry.name, entry.value}
    return names | {_distribution(entry)} - {hookspecs.NAME}


def _import(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise PluginError(f"there is no file {name}")
    spec = importlib.util.spec_from_file_location(f"llamafw_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018  # a fact about .py files, for mypy
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
