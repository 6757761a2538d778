"""The name and the version of the hooks, and the decorators that mark them."""

from __future__ import annotations

import pluggy

NAME = "llamafw"  #: name of the pluggy project and of the entry-point group
API_VERSION = "1.0.0"
"""Version of the hooks and of everything that `llamafw` exports, by https://semver.org; not the version of llamafw.

A plugin states the versions it works with beside its hooks: ``requires_api = ">=1.2,<2"``, a version specifier as in a
pyproject.toml. If the specifier excludes this version, the plugin is not loaded.
"""
hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)
"""Marks a function of a plugin as a hook: `@hookimpl`, or `@hookimpl(wrapper=True)`; see pluggy."""
