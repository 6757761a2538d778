"""Finds the hooks of a plugin and checks what it states: the API version it requires, its hooks, its options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pluggy

from llamafw import hookspecs
from llamafw.errors import PluginError, did_you_mean
from llamafw.plugins.configuration import check_option_schemas
from llamafw.plugins.records import PluginRecord


def find_hooks(loaded: Any, manager: pluggy.PluginManager) -> Any:
    """Return the module, class or object whose functions are the hooks of a plugin.

    If a module has no hook functions, this is its class with hook methods.

    Parameters
    ----------
    loaded : object
        What was loaded: a module, or what an entry point names.
    manager : pluggy.PluginManager
        Knows which functions are marked with `hookimpl`.

    Raises
    ------
    PluginError
        The module has several classes with hook methods.
    """
    if not inspect.ismodule(loaded) or marked_functions(loaded, manager):
        return loaded

    classes = [cls for cls in _own_classes(loaded) if marked_functions(cls, manager)]
    if len(classes) > 1:
        names = ", ".join(sorted(cls.__name__ for cls in classes))
        raise PluginError(
            f"it has several classes with hooks: {names}; keep one of them, or name one in an entry point"
        )
    return classes[0] if classes else loaded


def create_plugin(cls: type) -> Any:
    """Return an object of a plugin's class.

    Raises
    ------
    PluginError
        The constructor needs arguments.
    """
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise PluginError(f"its class {cls.__name__} needs arguments, but is created without any: {error}") from None
    return cls()


def check_api_version(plugin: Any, record: PluginRecord) -> str | None:
    """Return ``requires_api`` of a plugin or of its module; None if it does not state any.

    Raises
    ------
    PluginError
        ``requires_api`` excludes this version of the API, or is not a version specifier.
    """
    module = sys.modules.get(getattr(plugin, "__module__", ""))  # if the plugin is a class or an object
    required: str | None = getattr(plugin, "requires_api", getattr(module, "requires_api", None))
    if required is None:
        return None

    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # here because most plugins state nothing

    try:
        is_satisfied = SpecifierSet(required).contains(hookspecs.API_VERSION, prereleases=True)
    except (InvalidSpecifier, TypeError, AttributeError):
        raise PluginError(f"its requires_api is {required!r:.80}, not a specifier such as '>=1.0,<2'") from None
    if not is_satisfied:
        package = record.distribution if record.version == "?" else f"{record.distribution} {record.version}"
        raise PluginError(
            f"{package} requires API {required} of llamafw, "
            f"and llamafw {version(hookspecs.NAME)} has API {hookspecs.API_VERSION}"
        )
    return required


def check_hooks(plugin: Any, manager: pluggy.PluginManager) -> None:
    """Check that a plugin implements at least one hook, and only hooks that exist; pluggy ignores other names.

    Raises
    ------
    PluginError
        No function is marked with `hookimpl`, a marked function is not a hook, is ``async def``, takes a parameter that
        the hook does not have, or wraps a hook that cannot be wrapped.
    """
    specs = {name: caller.spec for name, caller in vars(manager.hook).items() if not name.startswith("_")}
    implemented = marked_functions(plugin, manager)
    for name, marks in implemented.items():
        if name not in specs:
            raise PluginError(f"it implements {name!r}, which is not a hook of llamafw{did_you_mean(name, specs)}")
        if _is_async(getattr(plugin, name)):  # nothing would await it
            raise PluginError(f"the hook {name} is defined with `async def`, but hooks are plain functions: use `def`")
        if (marks["wrapper"] or marks["hookwrapper"]) and not specs[name].opts["firstresult"]:
            raise PluginError(f"it wraps {name!r}, but only hooks that return the first answer can be wrapped")

        known = specs[name].argnames
        if unknown := [parameter for parameter in _required_parameters(plugin, name) if parameter not in known]:
            expected = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
            raise PluginError(f"the hook {name} has no parameter {unknown[0]!r}; {expected}")

    if not implemented:
        places = [plugin, *(_own_classes(plugin) if inspect.ismodule(plugin) else ())]
        unmarked = [name for name in specs if any(hasattr(place, name) for place in places)]
        raise PluginError(
            f"it implements no hook; mark {', '.join(unmarked) or 'its hook functions'} with @llamafw.hookimpl"
        )


def marked_functions(plugin: Any, manager: pluggy.PluginManager) -> dict[str, Any]:
    """Return the functions of a plugin that are marked with `hookimpl`, with the arguments of the mark."""
    marks = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    return {name: options for name, options in marks.items() if options is not None}


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _own_classes(module: ModuleType) -> set[type]:
    """Return the classes that a module or its submodules define."""
    classes = {value for value in vars(module).values() if isinstance(value, type)}
    return {cls for cls in classes if f"{cls.__module__}.".startswith(f"{module.__name__}.")}


def _required_parameters(plugin: Any, name: str) -> list[str]:
    parameters = inspect.signature(getattr(plugin, name)).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
    ]


def check_options(plugin: Any) -> Mapping[str, Any]:
    """Return the options that a plugin declares, JSON Schemas by key.

    Raises
    ------
    PluginError
        They are not JSON Schemas, or the plugin has no hook that receives their values.
    """
    declared = getattr(plugin, "plugin_options", None)
    if declared is None:
        return {}
    options = check_option_schemas(declared)
    if options and not hasattr(plugin, "configure"):
        raise PluginError("it declares plugin_options but does not implement the hook configure, which receives them")
    return options
