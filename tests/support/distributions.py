"""Install distributions with one plugin each, as pip does: a module and its ``.dist-info`` in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def write_distribution(folder: Path, name: str, code: str, version: str = "1.0") -> str:
    """Write a distribution with one plugin, and return the plugin's name.

    The distribution ``llamafw-x`` has the module ``llamafw_x`` and the plugin ``llamafw-x:x``.
    """
    module, entry = name.replace("-", "_"), name.removeprefix("llamafw-")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[llamafw]\n{entry} = {module}\n")
    return f"{name}:{entry}"


class Site:
    """Represents a folder of installed distributions on ``sys.path``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, code: str, version: str = "1.0") -> str:
        """Install a distribution, see `write_distribution`."""
        return write_distribution(self.folder, name, code, version)

    def unload(self) -> None:
        """Remove all modules of the folder from ``sys.modules``."""
        for path in self.folder.glob("*.py"):
            sys.modules.pop(path.stem, None)


def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return an empty folder that stays on ``sys.path`` until the end of the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return Site(folder)
