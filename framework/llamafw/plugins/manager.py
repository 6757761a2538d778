"""Loads plugins, lets them fill the registries, and calls their hooks.

A plugin that fails before the server listens is disabled: everything it registered is removed, and start-up continues
without it. Start-up fails instead if the user named that plugin, or if it may control access to the server.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from time import perf_counter
from types import MappingProxyType
from typing import Any

import pluggy

from llamafw import hookspecs
from llamafw.errors import FAULTS, LlamafwError, PluginError, SettingsError, did_you_mean
from llamafw.plugins.configuration import PluginSetting, aliases_of, check_plugin_names, option_values
from llamafw.plugins.discovery import discover, import_plugin
from llamafw.plugins.failures import FailureLog, Place, describe, drop_context, exc_info, hook_error
from llamafw.plugins.hook_timer import STARTUP_LIMIT, HookTimer
from llamafw.plugins.load_checks import (
    check_api_version,
    check_hooks,
    check_options,
    create_plugin,
    find_hooks,
    marked_functions,
)
from llamafw.plugins.records import PluginRecord
from llamafw.registry import NameClash, RegistrationError, Registry
from llamafw.types import PluginInfo

log = logging.getLogger("llamafw.plugins")

KINDS = (
    "command",
    "sampler",
    "field",
    "chat_format",
    "tool_parser",
    "grammar",
    "drafter",
    "tokenizer",
    "architecture",
    "conversion",
    "operator",
    "quant",
    "backend",
    "error_format",
)
"""Kinds that are registered once per process. Endpoints and authenticators are registered while the server is built."""
GUARDS = ("register_authenticators", "wrap_asgi")
"""Hooks of plugins that may control access. They are never disabled: the server would be open without them."""


class Plugins:
    """The plugins of this process and what they registered.

    Parameters
    ----------
    extra : iterable of str
        Plugins that the user named: modules, ``.py`` files, or installed plugins. If one of them fails,
        start-up fails.
    block : collection of str
        Plugins not to load: ``distribution:entry``, the entry, the distribution, or a name in ``extra``.
    settings : sequence of PluginSetting
        Values for options of plugins. A plugin with settings counts as named by the user.
    strict : bool
        Start-up fails if any plugin fails.
    tolerant : bool
        Start-up never fails because of a plugin; for commands that list plugins.
    """

    def __init__(
        self,
        *,
        extra: Iterable[str] = (),
        block: Collection[str] = (),
        settings: Sequence[PluginSetting] = (),
        strict: bool = False,
        tolerant: bool = False,
    ) -> None:
        self.pm = pluggy.PluginManager(hookspecs.NAME)
        self.pm.add_hookspecs(hookspecs)
        self.records: dict[str, PluginRecord] = {}
        self.registries = {kind: Registry(kind) for kind in KINDS}
        self.failures = FailureLog()
        self._timer = HookTimer()
        self._strict, self._tolerant = strict, tolerant
        self._logged: set[tuple[str | None, str]] = set()  # failures whose traceback is in the log

        extra, blocked = tuple(extra), set(block)
        installed = discover()
        known = {alias for plugin in installed for alias in plugin.aliases}
        _check_blocked(blocked, known.union(extra))
        named = set(extra) | {setting.plugin for setting in settings}  # a plugin with settings is needed by the user
        self._required = set(extra) | {plugin.name for plugin in installed if plugin.aliases & named}

        for plugin in installed:
            record = PluginRecord(plugin.name, plugin.distribution, plugin.version)
            self._load(record, plugin.entry.load, blocked=bool(blocked & plugin.aliases))
        for name in extra:
            if name not in known and name not in self.records:
                self._load(PluginRecord(name, name, "?"), partial(import_plugin, name), blocked=name in blocked)

        others = {name: aliases_of(name) for name in extra if name not in known}
        aliases = {plugin.name: plugin.aliases for plugin in installed} | others
        check_plugin_names(settings, aliases)
        for name, names in aliases.items():
            self._configure(name, [setting for setting in settings if setting.plugin in names])
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
        """Return a description of each plugin, in the order in which they were loaded."""
        return [
            PluginInfo(
                record.name,
                record.distribution,
                record.version,
                record.state,
                record.requires_api,
                dict(record.registered),
                record.hooks,
                record.options,
                self._request_fields(record.name),
                record.load_ms,
                record.error,
            )
            for record in self.records.values()
        ]

    def _request_fields(self, plugin: str) -> dict[str, Any]:
        samplers, fields = self.registries["sampler"], self.registries["field"]
        schemas: dict[str, Any] = {}
        for name, sampler in samplers.items():
            if samplers.owner(name) == plugin:
                schemas |= sampler.options
        return schemas | {name: schema for name, schema in fields.items() if fields.owner(name) == plugin}

    # --- calling hooks

    def fill(self, registry: Registry, **context: Any) -> bool:
        """Fill a registry by calling ``register_<kind>s`` of every plugin.

        Parameters
        ----------
        registry : Registry
            An empty registry, or one with entries of llamafw's own.
        **context
            Further arguments of the hook.

        Returns
        -------
        bool
            Whether a plugin had to be disabled.
        """
        self.registries[registry.kind] = registry
        hook, any_disabled = f"register_{registry.kind}s", False
        for name, call in self.implementations(hook):
            record, start = self.records[name], perf_counter()
            try:
                self._timed(name, hook, partial(call, register=partial(registry.add, owner=name), **context))
            except PluginError as error:
                self._disable(record, error, "registration")
                registry.remove(name)
                any_disabled = True

            record.load_ms += (perf_counter() - start) * 1e3
            if entries := [entry for entry in registry if registry.owner(entry) == name]:
                record.registered[registry.kind] = entries
        return any_disabled

    def call_each(self, hook: str, *, only: str | None = None, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call a hook of one plugin after another and yield names and results; disable plugins that fail.

        For hooks before the server listens. ``only`` names the one plugin to call.
        """
        for name, call in self.implementations(hook):
            if only is not None and name != only:
                continue
            try:
                result = self._timed(name, hook, partial(call, **arguments))
            except PluginError as error:
                self._disable(self.records[name], error, "startup")
            else:
                yield name, result

    def implementations(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Yield the name of each plugin that implements a hook, and a function that takes all arguments of the hook.

        The function raises PluginError with the plugin's name. Pluggy calls all implementations at once, which does
        not tell which of them failed.
        """
        for impl in getattr(self.hook, hook).get_hookimpls():
            yield impl.plugin_name, partial(_call, impl, hook)

    def call_first(self, hook: str, **arguments: Any) -> Any:
        """Return the first result of a hook about a model; if a plugin fails, ask the others.

        Raises
        ------
        LlamafwError
            A plugin raised it on purpose, or a plugin that start-up depends on failed.
        """
        failed: list[Any] = []
        while True:
            try:
                return self.pm.subset_hook_caller(hook, failed)(**arguments)
            except LlamafwError:
                raise
            except FAULTS as error:
                name = self.failures.responsible_plugin(error)
                plugin = self.pm.get_plugin(name) if name else None
                if name is None or plugin is None or plugin in failed:
                    raise
                failed.append(plugin)
                self.failures.count(name, "startup")
                if self._is_fatal(name):
                    raise _with_hint(hook_error(name, hook, error), name) from error
                self.log_failure(name, hook, error)

    def describe_result(self, hook: str, result: Any) -> str:
        """Return the subject of an error message about a result that `call_first` returned."""
        name = self.failures.owner(type(result).__module__)
        return f"{_subject(name)}: the {type(result).__name__} that {hook} returned"

    def notify(self, event: str, **arguments: Any) -> None:
        """Call an event hook of every plugin; if a plugin fails, log it and call the others."""
        for name, call in self.implementations(event):
            try:
                call(**arguments)
            except PluginError as error:
                self.failures.count(name, "event")
                self.log_failure(name, event, error.__cause__ or error)

    # --- failures

    def report_failure(self, error: BaseException, place: Place) -> str | None:
        """Return the plugin that caused an exception and count the failure; None if no plugin did.

        An exception that is reported again is not counted again.
        """
        name: str | None = getattr(error, "plugin", None)
        if name is not None:
            return name

        source: tuple[str, str] | None = getattr(error, "source", None)  # kind and name of what failed
        if source is not None and source[1] in self.registries.get(source[0], ()):
            name = self.registries[source[0]].owner(source[1])
        else:
            name = self.failures.responsible_plugin(error)
        if name is not None:
            self.failures.count(name, place)
            error.plugin = name  # type: ignore[attr-defined]  # exceptions accept new attributes
        return name

    def log_failure(self, plugin: str | None, hook: str, error: BaseException) -> None:
        """Log that a plugin failed in a hook, in one line.

        The first time, the traceback of an unexpected exception follows; later ones only at log level DEBUG.
        """
        is_new = (plugin, hook) not in self._logged
        self._logged.add((plugin, hook))
        show = log.isEnabledFor(logging.DEBUG) or (is_new and not isinstance(error, LlamafwError))
        log.error("%s failed in %s: %s", _subject(plugin), hook, describe(error), exc_info=exc_info(error, show))

    def log_disabled(self) -> None:
        """Log which plugins are disabled and why, each once; the tracebacks follow at log level DEBUG."""
        for record in self.records.values():
            if record.exception is not None:
                hint = f"the plugin is disabled (use --no-plugin {record.name} to hide this message)"
                show = log.isEnabledFor(logging.DEBUG)
                log.error("%s; %s", record.error, hint, exc_info=exc_info(record.exception, show))
                record.exception = None

    def disable(self, name: str, error: LlamafwError) -> None:
        """Disable a plugin because something that it provides is invalid.

        Raises
        ------
        PluginError
            Start-up depends on this plugin.
        """
        self._disable(self.records[name], PluginError(f"plugin {name} cannot be used: {describe(error)}"), "startup")

    def raise_or_log(self, name: str, error: PluginError) -> None:
        """Report that something a plugin provides does not work, when it is too late to disable the plugin.

        Raises
        ------
        PluginError
            Start-up depends on this plugin.
        """
        self.failures.count(name, "startup")
        if self._is_fatal(name):
            raise _with_hint(error, name)
        log.error("%s", error)

    def _disable(self, record: PluginRecord, error: PluginError, place: Place) -> None:
        self.failures.count(record.name, place)
        if self._is_fatal(record.name) or (isinstance(error, NameClash) and not self._tolerant):
            raise _with_hint(error, record.name) from error.__cause__
        record.state, record.error, record.registered = "failed", str(error), {}
        record.exception = error.__cause__ or error
        for registry in self.registries.values():
            registry.remove(record.name)
        if self.pm.has_plugin(record.name):
            self.pm.unregister(name=record.name)

    def _is_fatal(self, name: str) -> bool:
        is_guard = any(hook in GUARDS for hook in self.records[name].hooks)
        return not self._tolerant and (self._strict or is_guard or name in self._required)

    # --- loading

    def _load(self, record: PluginRecord, load: Callable[[], Any], *, blocked: bool) -> None:
        self.records[record.name] = record
        if blocked:
            record.state = "blocked"
            return

        start = perf_counter()
        try:
            plugin = find_hooks(self._timed(record.name, "its import", load), self.pm)
            record.hooks = sorted(marked_functions(plugin, self.pm))  # if a check fails, they tell whether it is fatal
            record.requires_api = check_api_version(plugin, record)
            if isinstance(plugin, type):
                plugin = create_plugin(plugin)  # an object of its own, because state in the class would be shared
            check_hooks(plugin, self.pm)
            record.options = check_options(plugin)
            self.pm.register(plugin, name=record.name)
        except FAULTS as error:
            failure = PluginError(f"plugin {record.name} cannot be loaded: {describe(error)}")
            failure.__cause__ = error
            return self._disable(record, failure, "import")
        finally:
            record.load_ms = (perf_counter() - start) * 1e3

        callers = self.pm.get_hookcallers(plugin) or ()
        self.failures.add_module(record.name, getattr(plugin, "__name__", type(plugin).__module__))
        for caller in callers:
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin:
                    self._timer.wrap(impl, caller.name)

    def _configure(self, name: str, settings: Iterable[PluginSetting]) -> None:
        """Pass a plugin its own settings."""
        record = self.records[name]
        if record.state == "active":
            options = MappingProxyType(option_values(name, record.options, settings))
            for _ in self.call_each("configure", only=name, options=options):
                pass  # `call_each` is a generator: it calls the hook when it is iterated

    def _timed(self, name: str, action: str, call: Callable[[], Any]) -> Any:
        start = perf_counter()
        result = call()
        self._timer.record(name, action, perf_counter() - start, STARTUP_LIMIT)
        return result


def _check_blocked(blocked: set[str], known: set[str]) -> None:
    for name in sorted(blocked - known):
        raise SettingsError(f"--no-plugin {name}: no such plugin is installed{did_you_mean(name, sorted(known))}")


def _call(impl: pluggy.HookImpl, hook: str, **arguments: Any) -> Any:
    handled = sys.exc_info()[1]
    try:
        return impl.function(**{name: arguments[name] for name in impl.argnames})
    except (SettingsError, RegistrationError):  # the user is at fault, or the message names the plugin already
        raise
    except FAULTS as error:
        drop_context(error, handled)
        raise hook_error(impl.plugin_name, hook, error) from error


def _subject(name: str | None) -> str:
    """Return the subject of a message about a plugin, which may be unknown."""
    return f"plugin {name}" if name else "a plugin"


def _with_hint(error: PluginError, plugin: str) -> PluginError:
    """Return an error that stops start-up and says how to start without the plugin."""
    return PluginError(f"{error}; use --no-plugin {plugin} to start without it")
