"""Distributions with a plugin, as pip leaves them: a module and its ``.dist-info``, in a folder on ``sys.path``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def write_distribution(folder: Path, name: str, code: str, version: str = "1.0") -> str:
    """Write the distribution ``llamafw-x`` with one plugin, its entry point ``x``; return ``llamafw-x:x``."""
    module, entry = name.replace("-", "_"), name.removeprefix("llamafw-")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[llamafw]\n{entry} = {module}\n")
    return f"{name}:{entry}"


class Site:
    """A folder of distributions that this process sees until the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, code: str, version: str = "1.0") -> str:
        return write_distribution(self.folder, name, code, version)

    def forget(self) -> None:
        for path in self.folder.glob("*.py"):
            sys.modules.pop(path.stem, None)


def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return Site(folder)
