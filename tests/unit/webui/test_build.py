"""The files of the chat page that are served are what its sources become."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llamafw_plugins.webui.files import PAGE_FOLDER

SOURCE = Path(__file__).parents[3] / "plugins/llamafw_plugins/webui/source"
MAX_LINES = 400


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their paths."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_served_files_are_built_from_the_sources(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    if not (SOURCE / "node_modules/vite").is_dir():
        pytest.skip("needs the packages of the chat page: run `make node`")
    for command in (["run", "check"], ["run", "build", "--", "--outDir", str(tmp_path / "page")]):
        done = subprocess.run([npm, *command], cwd=SOURCE, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stdout + done.stderr

    built, served = contents(tmp_path / "page"), contents(PAGE_FOLDER)
    assert built.keys() == served.keys()
    assert [name for name in built if built[name] != served[name]] == [], "run make webui"


def test_lock_file_names_no_registry() -> None:
    """Without addresses, npm asks the registry that it is configured for; checksums tell what it has to send."""
    lock = json.loads((SOURCE / "package-lock.json").read_text("utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert {"node_modules/preact", "node_modules/vite"} <= packages.keys()
    assert all("resolved" not in package and package["integrity"] for package in packages.values())


def test_source_files_are_short() -> None:
    files = [path for path in (SOURCE / "src").rglob("*") if path.is_file()]
    assert len(files) > 40
    assert [path.name for path in files if len(path.read_text("utf-8").splitlines()) > MAX_LINES] == []


def test_texts_are_in_the_file_of_the_language() -> None:
    """Texts between tags, and labels, come from the function `t`."""
    text = re.compile(r">\s*[A-Za-z][a-z]+ ?[a-z]*[^<>{}();=]*</|(?:label|title|placeholder|aria-label)=\"[A-Z]")
    components = sorted((SOURCE / "src").rglob("*.tsx"))
    assert len(components) > 15
    assert [path.name for path in components if text.search(path.read_text("utf-8"))] == []


def test_licences_of_all_libraries_are_served() -> None:
    licences = (PAGE_FOLDER / "webui/licences.txt").read_text("utf-8")
    dependencies = json.loads((SOURCE / "package.json").read_text("utf-8"))["dependencies"]
    for name, version in dependencies.items():
        assert f"{name} {version}\n" in licences
    assert "CMaps of Adobe\n" in licences


def test_version_of_node_is_documented() -> None:
    """The version is the one that pdf.js wants, the newest of all that the libraries want."""
    lock = json.loads((SOURCE / "package-lock.json").read_text("utf-8"))["packages"]
    package = json.loads((SOURCE / "package.json").read_text("utf-8"))
    assert package["engines"] == lock[""]["engines"] == {"node": ">=22.13"}
    assert lock["node_modules/pdfjs-dist"]["engines"]["node"].startswith(">=22.13.0")
    for page in ("CONTRIBUTING.md", "docs/webui.md", "docs/plugins/webui.md"):
        assert "Node 22.13" in (SOURCE.parents[3] / page).read_text("utf-8"), page
