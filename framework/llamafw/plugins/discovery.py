"""Where plugins come from: entry points of installed distributions, modules and files. It checks nothing."""
from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from llamafw.errors import PluginError
from llamafw.hookspecs import NAME


def discover() -> list[EntryPoint]:
    """Return all installed plugins: ours first, the others by name, whatever order the disk has them in."""
    return sorted(set(entry_points(group=NAME)), key=lambda entry: (distribution(entry) != NAME, full_name(entry)))


def full_name(entry: EntryPoint) -> str:
    """Return ``distribution:entry``, which, unlike the entry's own name, is unique."""
    return f"{distribution(entry)}:{entry.name}"


def distribution(entry: EntryPoint) -> str:
    """Return the name of the distribution that an entry point belongs to."""
    return entry.dist.name if entry.dist else "?"


def names(entry: EntryPoint) -> set[str]:
    """Return what a user may call an installed plugin. Ours are many, so ``llamafw`` alone names none of them."""
    found = {full_name(entry), entry.name, entry.value}
    return found | {distribution(entry)} - {NAME}


def import_named(name: str) -> Any:
    """Return the module ``name``, or that of a ``.py`` file."""
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
