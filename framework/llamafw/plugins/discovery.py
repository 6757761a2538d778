"""Finds plugins: entry points of installed distributions, modules and files.

It does not check them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

from llamafw.errors import PluginError
from llamafw.hookspecs import NAME


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """An entry point of an installed distribution."""

    entry: EntryPoint
    distribution: str
    version: str

    @property
    def name(self) -> str:
        """``distribution:entry``.

        It is unique, unlike the name of the entry point.
        """
        return f"{self.distribution}:{self.entry.name}"

    @property
    def aliases(self) -> set[str]:
        """All names that a user may give it.

        ``llamafw`` is not among them: many plugins are in that distribution.
        """
        return {self.name, self.entry.name, self.entry.value} | {self.distribution} - {NAME}


def discover() -> list[InstalledPlugin]:
    """Return all installed plugins, the built-in ones first, the others sorted by name."""
    distributions: dict[int, tuple[str, str]] = {}
    plugins = []
    for entry in set(entry_points(group=NAME)):
        key = id(entry.dist)
        if key not in distributions:
            distributions[key] = _name_and_version(entry.dist) if entry.dist else ("?", "?")
        plugins.append(InstalledPlugin(entry, *distributions[key]))
    return sorted(plugins, key=lambda plugin: (plugin.distribution != NAME, plugin.name))


def _name_and_version(dist: Distribution) -> tuple[str, str]:
    """Return a distribution's name and version.

    ``dist.name`` and ``dist.version`` parse the whole metadata, README included, at each access, which takes about a
    millisecond. This reads the header alone.
    """
    header = (dist.read_text("METADATA") or "").partition("\n\n")[0]
    lines = [line for line in header.splitlines() if line.startswith(("Name: ", "Version: "))]
    fields = dict(line.partition(": ")[::2] for line in lines)
    return fields.get("Name") or dist.name, fields.get("Version") or dist.version


def public_name(name: str) -> str:
    """Return a plugin's name for clients.

    For a file, this is its name without the folder, which they need not know.
    """
    return Path(name).name if name.endswith(".py") else name


def is_builtin(name: str) -> bool:
    """Return whether the plugin with this full name is part of llamafw itself."""
    return name.startswith(f"{NAME}:")


def import_plugin(name: str) -> Any:
    """Import the module ``name``, or the file if it ends in ``.py``.

    Raises
    ------
    PluginError
        The module or the file does not exist. Errors within them are raised as they are.
    """
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):  # a module that the plugin imports
                raise
        raise PluginError(f"no module or installed plugin has the name {name!r} (a file's name ends in .py)")

    path = Path(name).expanduser()
    if not path.is_file():
        raise PluginError(f"the file {name} does not exist")
    spec = importlib.util.spec_from_file_location(f"llamafw_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018  # always so for .py files; tells mypy
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses, pickle and others look up the module of a class by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
