"""Where plugins come from: entry points of installed distributions, modules and files. It checks nothing."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

from llamafw.errors import PluginError
from llamafw.hookspecs import NAME


@dataclass(frozen=True, slots=True)
class Installed:
    """An entry point of an installed distribution."""

    entry: EntryPoint
    distribution: str
    version: str

    @property
    def name(self) -> str:
        """``distribution:entry``, which, unlike the entry's own name, is unique."""
        return f"{self.distribution}:{self.entry.name}"

    @property
    def names(self) -> set[str]:
        """What a user may call it. Ours are many, so ``llamafw`` alone names none of them."""
        return {self.name, self.entry.name, self.entry.value} | {self.distribution} - {NAME}


def discover() -> list[Installed]:
    """Return all installed plugins: ours first, the others by name, whatever order the disk has them in."""
    known: dict[int, tuple[str, str]] = {}
    found = []
    for entry in set(entry_points(group=NAME)):
        key = id(entry.dist)
        if key not in known:
            known[key] = _identity(entry.dist) if entry.dist else ("?", "?")
        found.append(Installed(entry, *known[key]))
    return sorted(found, key=lambda one: (one.distribution != NAME, one.name))


def _identity(dist: Distribution) -> tuple[str, str]:
    """Return the name and the version, from the first lines of the metadata.

    To ask ``dist.name`` and ``dist.version`` parses a whole README each time, a millisecond per question.
    """
    head = (dist.read_text("METADATA") or "").partition("\n\n")[0]
    fields = dict(line.partition(": ")[::2] for line in head.splitlines() if line.startswith(("Name: ", "Version: ")))
    return fields.get("Name") or dist.name, fields.get("Version") or dist.version


def shown(name: str) -> str:
    """Return a plugin's name for clients: of a file given to ``--plugin``, where it lies is none of their business."""
    return Path(name).name if name.endswith(".py") else name


def is_ours(name: str) -> bool:
    """Return whether a plugin, by its full name, is one of llamafw's own."""
    return name.startswith(f"{NAME}:")


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
