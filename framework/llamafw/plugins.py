"""Find plugins, check them, and let them fill the registries. It knows nothing of what they register."""
from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any

import pluggy

from llamafw import hookspecs
from llamafw.errors import LlamafwError, PluginError, SettingsError
from llamafw.registry import Registry

log = logging.getLogger(__name__)

KINDS = (
    "command", "sampler", "field", "chat_format", "tool_parser", "grammar", "tokenizer", "architecture", "quant",
    "backend",
)  # fmt: skip
"""What is registered once per process; endpoints are registered when the application is built."""


@dataclass(slots=True)
class Found:
    """One plugin, loaded or not."""

    name: str  # distribution:entry, or what --plugin was given
    distribution: str
    version: str
    requires_api: str | None = None  # as the plugin states it
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
        Plugins to leave out: ``distribution:entry``, entry, distribution, or what is in ``extra``.
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
        known = {name for entry in installed for name in _names(entry)}
        extra, blocked = tuple(extra), set(block)
        _check_blocked(blocked, known.union(extra))
        for entry in installed:
            if not blocked & _names(entry):
                self._load(full_name(entry), entry.load, entry.dist.version if entry.dist else "?")
        for name in extra:
            if name not in known and name not in self.found and name not in blocked:
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
        for name, register in self.calls(f"register_{registry.kind}s"):
            found = self.found[name]
            try:
                register(register=partial(registry.add, owner=name), **context)
            except PluginError as exc:
                self._leave_out(found, exc)
            if things := [thing for thing in registry if registry.owner(thing) == name]:
                found.registered[registry.kind] = things

    def calls(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Yield each plugin's name and its implementation of ``hook``, to be called with all the hook's arguments.

        Pluggy would call them all at once, and a failure would be anyone's; here it is a PluginError with the name.
        """
        for impl in getattr(self.hook, hook).get_hookimpls():
            yield impl.plugin_name, partial(_call, impl, hook)

    def tell(self, event: str, **facts: Any) -> None:
        """Call every plugin's ``event``. News cannot be refused: a plugin that fails is logged, the others hear it."""
        for name, hear in self.calls(event):
            try:
                hear(**facts)
            except PluginError:
                log.exception("plugin %s failed in %s", name, event)

    def _load(self, name: str, load: Any, of: str) -> None:
        found = self.found[name] = Found(name, name.partition(":")[0], of)
        try:
            plugin = load()
            if isinstance(plugin, type):  # state of its own, for as long as these plugins live
                plugin = plugin()
            self._check_api(plugin, found)
            self._check_hooks(plugin, name)
            self.pm.register(plugin, name=name)
        except Exception as exc:
            return self._leave_out(found, _failure(name, "cannot be loaded", exc))
        found.hooks = sorted(caller.name for caller in self.pm.get_hookcallers(plugin) or ())

    def _check_api(self, plugin: Any, found: Found) -> None:
        wanted = getattr(plugin, "requires_api", None)
        if wanted is None:
            return
        from packaging.specifiers import InvalidSpecifier, SpecifierSet  # most plugins state nothing

        try:
            fits = SpecifierSet(wanted).contains(hookspecs.API_VERSION, prereleases=True)
        except (InvalidSpecifier, TypeError, AttributeError):
            raise PluginError(f"its requires_api, {wanted!r:.80}, is no specifier such as '>=1.0,<2'") from None
        found.requires_api = wanted
        if not fits:
            raise PluginError(f"{found.distribution} {found.version} requires API {wanted} of llamafw, "
                              f"and llamafw {version(hookspecs.NAME)} has API {hookspecs.API_VERSION}")

    def _check_hooks(self, plugin: Any, name: str) -> None:
        """Pluggy ignores a hook it does not know; a typing error would go unnoticed."""
        known = [hook for hook in vars(self.hook) if not hook.startswith("_")]
        for attribute in dir(plugin):
            if self.pm.parse_hookimpl_opts(plugin, attribute) is not None and attribute not in known:
                near = get_close_matches(attribute, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise PluginError(f"it implements {attribute!r}, which is no hook of llamafw{hint}")

    def _leave_out(self, found: Found, error: PluginError) -> None:
        if not self._tolerant:
            raise error
        found.error = str(error)
        if self.pm.has_plugin(found.name):
            self.pm.unregister(name=found.name)


def _check_blocked(blocked: set[str], known: set[str]) -> None:
    for name in sorted(blocked - known):
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise PluginError(f"--no-plugin {name}: no such plugin is installed{hint}")


def _call(impl: pluggy.HookImpl, hook: str, **given: Any) -> Any:
    try:
        return impl.function(**{name: given[name] for name in impl.argnames})
    except SettingsError:  # what a user asked for is at fault, not the plugin
        raise
    except Exception as exc:
        raise _failure(impl.plugin_name, f"failed in {hook}", exc) from exc


def _failure(name: str, what: str, exc: Exception) -> PluginError:
    cause = str(exc) if isinstance(exc, LlamafwError) else f"{type(exc).__name__}: {exc}"
    return PluginError(f"plugin {name} {what}: {cause} (start without it: --no-plugin {name})")


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
