"""Load plugins, check them, and let them fill the registries. What one does wrong costs the others nothing.

A plugin that fails before the server listens is left out, with everything it had registered, and what else there is
goes on; unless it was asked for by name, or stands before every request: then the start ends.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from time import perf_counter
from types import MappingProxyType
from typing import Any, Literal

import pluggy

from llamafw import hookspecs
from llamafw.errors import FAULTS, LlamafwError, PluginError, SettingsError, did_you_mean
from llamafw.plugins.blame import Blame, Place
from llamafw.plugins.configuration import Given, check_names, check_schemas, file_names, values
from llamafw.plugins.discovery import discover, import_named
from llamafw.plugins.slow import AT_THE_START, Watch
from llamafw.registry import Clash, Registry
from llamafw.types import PluginInfo

log = logging.getLogger("llamafw.plugins")

KINDS = (
    "command",
    "sampler",
    "field",
    "chat_format",
    "tool_parser",
    "grammar",
    "tokenizer",
    "architecture",
    "quant",
    "backend",
)
"""What is registered once per process; endpoints are registered when the application is built."""

GUARDS = ("register_authenticators", "wrap_asgi")
"""Hooks of plugins that are never left out: without one that keeps the door, the door would be open."""


@dataclass(slots=True)
class Found:
    """One plugin, loaded or not."""

    name: str  # distribution:entry, or what --plugin was given
    distribution: str
    version: str
    requires_api: str | None = None  # as the plugin states it
    hooks: list[str] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)  # key → JSON Schema
    registered: dict[str, list[str]] = field(default_factory=dict)  # kind → names
    load_ms: float = 0.0  # importing it and registering what it has
    state: Literal["active", "failed", "blocked"] = "active"
    error: str | None = None


class Plugins:
    """The plugins of this process and what they registered.

    Parameters
    ----------
    extra : iterable of str
        Plugins to load besides those installed: a module's name, or the path of a ``.py`` file. An installed plugin
        may be named, too. If one of these fails, that is a PluginError, as it is of one that has options given.
    block : collection of str
        Plugins to leave out: ``distribution:entry``, entry, distribution, or what is in ``extra``.
    options : sequence of Given
        Settings of single plugins.
    strict : bool
        Failures of all plugins are a PluginError. Without it, an installed plugin that fails is left out.
    tolerant : bool
        No failure is, for listings.
    """

    def __init__(
        self,
        *,
        extra: Iterable[str] = (),
        block: Collection[str] = (),
        options: Sequence[Given] = (),
        strict: bool = False,
        tolerant: bool = False,
    ) -> None:
        self.pm = pluggy.PluginManager(hookspecs.NAME)
        self.pm.add_hookspecs(hookspecs)
        self.found: dict[str, Found] = {}
        self.registries = {kind: Registry(kind) for kind in KINDS}
        self.blame = Blame()
        self._watch = Watch()
        self._strict, self._tolerant = strict, tolerant
        self._reported: set[str] = set()
        installed = discover()
        known = {name for one in installed for name in one.names}
        extra, blocked = tuple(extra), set(block)
        _check_blocked(blocked, known.union(extra))
        asked = set(extra) | {given.plugin for given in options}  # who sets it up relies on it: keys, for one
        self._named = set(extra) | {one.name for one in installed if one.names & asked}
        for one in installed:
            found = Found(one.name, one.distribution, one.version)
            self._load(found, one.entry.load, blocked=bool(blocked & one.names))
        for name in extra:
            if name not in known and name not in self.found:
                self._load(Found(name, name, "?"), partial(import_named, name), blocked=name in blocked)
        aliases = {one.name: one.names for one in installed} | {name: file_names(name) for name in extra}
        check_names(options, aliases)
        self._configure({name: [given for given in options if given.plugin in also] for name, also in aliases.items()})
        for kind in KINDS:
            self.fill(self.registries[kind])

    @property
    def hook(self) -> Any:
        """Pluggy's hook callers, by name."""
        return self.pm.hook

    def registry(self, kind: str) -> Registry:
        """Return the registry of one of `KINDS`."""
        return self.registries[kind]

    def listing(self) -> list[PluginInfo]:
        """Return what there is to say of each plugin, in the order in which they were loaded."""
        return [
            PluginInfo(
                one.name,
                one.distribution,
                one.version,
                one.state,
                one.requires_api,
                dict(one.registered),
                one.hooks,
                one.options,
                self._request_fields(one.name),
                one.load_ms,
                one.error,
            )
            for one in self.found.values()
        ]

    def _request_fields(self, name: str) -> dict[str, Any]:
        samplers, fields = self.registries["sampler"], self.registries["field"]
        own = [sampler.options for key, sampler in samplers.items() if samplers.owner(key) == name]
        own.append({key: schema for key, schema in fields.items() if fields.owner(key) == name})
        return {key: schema for schemas in own for key, schema in schemas.items()}

    # --- calling hooks

    def fill(self, registry: Registry, **context: Any) -> bool:
        """Call ``register_<kind>s`` of one plugin after another; return whether one of them had to be left out."""
        self.registries[registry.kind] = registry
        whole = True
        for name, register in self.calls(f"register_{registry.kind}s"):
            found, begun = self.found[name], perf_counter()
            try:
                add = partial(registry.add, owner=name)
                self._timed(name, f"register_{registry.kind}s", partial(register, register=add, **context))
            except PluginError as exc:
                registry.remove(name)
                self._leave_out(found, exc, "registration")
                whole = False
            found.load_ms += (perf_counter() - begun) * 1e3
            if things := [thing for thing in registry if registry.owner(thing) == name]:
                found.registered[registry.kind] = things
        return not whole

    def each(self, hook: str, *, only: str | None = None, **given: Any) -> Iterator[tuple[str, Any]]:
        """Call ``hook`` of one plugin after another; yield each name and result. For hooks before the server listens.

        One that fails is left out. ``only``: of this plugin.
        """
        for name, call in self.calls(hook):
            if only is not None and name != only:
                continue
            try:
                result = self._timed(name, hook, partial(call, **given))
            except PluginError as exc:
                self._leave_out(self.found[name], exc, "startup")
            else:
                yield name, result

    def calls(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Yield each plugin's name and its implementation of ``hook``, to be called with all the hook's arguments.

        Pluggy would call them all at once, and a failure would be anyone's; here it is a PluginError with the name.
        """
        for impl in getattr(self.hook, hook).get_hookimpls():
            yield impl.plugin_name, partial(_call, impl, hook)

    def first(self, hook: str, **given: Any) -> Any:
        """Return the first answer to a hook about a model. A plugin that fails is asked no more, the next is.

        Raises
        ------
        LlamafwError
            A plugin said so on purpose; or it failed, and a failure of its is to end the start.
        """
        failed: list[Any] = []
        while True:
            try:
                return self.pm.subset_hook_caller(hook, failed)(**given)
            except LlamafwError:
                raise
            except FAULTS as exc:
                name = self.blame.culprit(exc)
                plugin = self.pm.get_plugin(name) if name else None
                if name is None or plugin is None or plugin in failed:
                    raise
                failed.append(plugin)
                self.blame.count(name, "startup")
                error = _failure(name, f"failed in {hook}", exc)
                if self._fatal(name):
                    raise error from exc
                log.error("%s", error, exc_info=exc)

    def tell(self, event: str, **facts: Any) -> None:
        """Call every plugin's ``event``. News cannot be refused: a plugin that fails is logged, the others hear it."""
        for name, hear in self.calls(event):
            try:
                hear(**facts)
            except PluginError:
                self.blame.count(name, "event")
                log.exception("plugin %s failed in %s", name, event)

    # --- failures

    def blamed(self, error: BaseException, place: Place) -> str | None:
        """Count a failure, once however often it is raised on, and return whose it was; None if no plugin's."""
        name: str | None = getattr(error, "plugin", None)
        if name is not None:
            return name
        source = getattr(error, "source", None)  # what failed, as it is registered
        if source is not None and source[1] in self.registries.get(source[0], ()):
            name = self.registries[source[0]].owner(source[1])
        else:
            name = self.blame.culprit(error)
        if name is not None:
            self.blame.count(name, place)
            error.plugin = name  # type: ignore[attr-defined]  # exceptions take attributes
        return name

    def report(self) -> None:
        """Log which plugins were left out, and why, if that has not been said."""
        for found in self.found.values():
            if found.error and found.name not in self._reported:
                self._reported.add(found.name)
                log.error("left out: %s", found.error)

    def _fatal(self, name: str) -> bool:
        guards = any(guard in self.found[name].hooks for guard in GUARDS)
        return not self._tolerant and (self._strict or guards or name in self._named)

    def _leave_out(self, found: Found, error: PluginError, place: Place) -> None:
        self.blame.count(found.name, place)
        if self._fatal(found.name) or (isinstance(error.__cause__, Clash) and not self._tolerant):
            raise error
        found.state, found.error, found.registered = "failed", str(error), {}
        for registry in self.registries.values():
            registry.remove(found.name)
        if self.pm.has_plugin(found.name):
            self.pm.unregister(name=found.name)

    def leave_out(self, name: str, error: LlamafwError) -> None:
        """Leave a plugin out, with all it has registered, for what is wrong with that.

        Raises
        ------
        PluginError
            A failure of this plugin's is to end the start.
        """
        self._leave_out(self.found[name], _failure(name, "cannot be used", error), "startup")

    # --- loading

    def _load(self, found: Found, load: Callable[[], Any], *, blocked: bool) -> None:
        self.found[found.name] = found
        if blocked:
            found.state = "blocked"
            return
        begun = perf_counter()
        try:
            plugin = self._timed(found.name, "its import", load)
            self._check_api(plugin, found)
            if isinstance(plugin, type):  # state of its own, for as long as these plugins live
                plugin = plugin()
            self._check_hooks(plugin)
            self._check_options(plugin, found)
            self.pm.register(plugin, name=found.name)
        except FAULTS as exc:
            return self._leave_out(found, _failure(found.name, "cannot be loaded", exc), "import")
        finally:
            found.load_ms = (perf_counter() - begun) * 1e3
        callers = self.pm.get_hookcallers(plugin) or ()
        found.hooks = sorted(caller.name for caller in callers)
        self.blame.know(found.name, getattr(plugin, "__name__", type(plugin).__module__))
        for caller in callers:
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin:
                    self._watch.time(impl, caller.name)

    def _configure(self, given: Mapping[str, Sequence[Given]]) -> None:
        """Give each plugin its own settings."""
        for name, found in self.found.items():
            if found.state == "active":
                options = values(name, found.options, given.get(name, ()))
                for _ in self.each("configure", only=name, options=MappingProxyType(options)):
                    pass

    def _timed(self, name: str, what: str, call: Callable[[], Any]) -> Any:
        begun = perf_counter()
        result = call()
        self._watch.took(name, what, perf_counter() - begun, AT_THE_START)
        return result

    def _check_api(self, plugin: Any, found: Found) -> None:
        home = sys.modules.get(getattr(plugin, "__module__", ""))  # of a class, or of an object
        wanted = getattr(plugin, "requires_api", getattr(home, "requires_api", None))
        if wanted is None:
            return
        from packaging.specifiers import InvalidSpecifier, SpecifierSet  # most plugins state nothing

        try:
            fits = SpecifierSet(wanted).contains(hookspecs.API_VERSION, prereleases=True)
        except (InvalidSpecifier, TypeError, AttributeError):
            raise PluginError(f"its requires_api, {wanted!r:.80}, is no specifier such as '>=1.0,<2'") from None
        found.requires_api = wanted
        if not fits:
            raise PluginError(
                f"{found.distribution} {found.version} requires API {wanted} of llamafw, "
                f"and llamafw {version(hookspecs.NAME)} has API {hookspecs.API_VERSION}"
            )

    def _check_options(self, plugin: Any, found: Found) -> None:
        if (options := getattr(plugin, "plugin_options", None)) is not None:
            found.options = check_schemas(options)
            if found.options and not hasattr(plugin, "configure"):
                raise PluginError("it states plugin_options, and does not take them by the hook configure")

    def _check_hooks(self, plugin: Any) -> None:
        """Pluggy ignores a hook it does not know; a typing error would go unnoticed."""
        known = {name: caller.spec for name, caller in vars(self.hook).items() if not name.startswith("_")}
        for attribute in dir(plugin):
            marks = self.pm.parse_hookimpl_opts(plugin, attribute)
            if marks is None:
                continue
            if attribute not in known:
                hint = did_you_mean(attribute, known)
                raise PluginError(f"it implements {attribute!r}, which is no hook of llamafw{hint}")
            if (marks["wrapper"] or marks["hookwrapper"]) and not known[attribute].opts["firstresult"]:
                raise PluginError(f"it wraps {attribute!r}, and only hooks that ask for one answer can be wrapped")


def _check_blocked(blocked: set[str], known: set[str]) -> None:
    for name in sorted(blocked - known):
        raise PluginError(f"--no-plugin {name}: no such plugin is installed{did_you_mean(name, known)}")


def _call(impl: pluggy.HookImpl, hook: str, **given: Any) -> Any:
    try:
        return impl.function(**{name: given[name] for name in impl.argnames})
    except SettingsError:  # what a user asked for is at fault, not the plugin
        raise
    except FAULTS as exc:
        raise _failure(impl.plugin_name, f"failed in {hook}", exc) from exc


def _failure(name: str, what: str, exc: BaseException) -> PluginError:
    cause = str(exc) if isinstance(exc, LlamafwError) else f"{type(exc).__name__}: {exc}"
    cause = " ".join(cause.split())  # a line in the log, and on stderr
    return PluginError(f"plugin {name} {what}: {cause} (start without it: --no-plugin {name})")
