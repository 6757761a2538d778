"""Checks what a plugin states about itself: the API version it requires, its hooks, its options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pluggy

from llamafw import hookspecs
from llamafw.errors import PluginError, did_you_mean
from llamafw.plugins.configuration import check_option_schemas
from llamafw.plugins.records import PluginRecord


def check_api_version(plugin: Any, record: PluginRecord) -> str | None:
    """Return ``requires_api`` of a plugin or of its module; None if it has none.

    Raises
    ------
    PluginError
        This version of the API does not satisfy it, or it is not a version specifier.
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
        raise PluginError(
            f"{record.distribution} {record.version} requires API {required} of llamafw, "
            f"and llamafw {version(hookspecs.NAME)} has API {hookspecs.API_VERSION}"
        )
    return required


def check_hooks(plugin: Any, manager: pluggy.PluginManager) -> None:
    """Check that a plugin implements at least one hook, and only hooks that exist; pluggy ignores other names.

    Raises
    ------
    PluginError
        A function marked with `hookimpl` is not a hook, no function is marked, or a hook that cannot be wrapped is.
    """
    specs = {name: caller.spec for name, caller in vars(manager.hook).items() if not name.startswith("_")}
    implemented = {
        name: marks for name in dir(plugin) if (marks := manager.parse_hookimpl_opts(plugin, name)) is not None
    }
    for name, marks in implemented.items():
        if name not in specs:
            raise PluginError(f"it implements {name!r}, which is not a hook of llamafw{did_you_mean(name, specs)}")
        if (marks["wrapper"] or marks["hookwrapper"]) and not specs[name].opts["firstresult"]:
            raise PluginError(f"it wraps {name!r}, but only hooks that return the first answer can be wrapped")

    if not implemented:
        unmarked = ", ".join(name for name in specs if hasattr(plugin, name)) or "its hook functions"
        raise PluginError(f"it implements no hook; mark {unmarked} with @llamafw.hookimpl")


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
