"""The house rules, as tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llamafw
from llamafw.testing import conformance

ROOT = Path(__file__).parents[2]
STREET = (
    "near_names errors types options settings interfaces sampling serving hookspecs registry"
    " plugins spec models engine server cli testing"
).split()
"""Every module of the framework imports only from modules to its left."""
SUITES = conformance.__name__


def files(*folders: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """What a file imports when it runs; what it imports for the type checker alone does not count."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def room(name: str) -> str | None:
    """The part of the street that a module of the framework lies in."""
    parts = name.split(".")
    return parts[1] if parts[0] == "llamafw" and len(parts) > 1 and parts[1] in STREET else None


@pytest.mark.parametrize("path", files("framework"), ids=str)
def test_framework_is_a_one_way_street(path: Path) -> None:
    here = path.parts[2].removesuffix(".py")
    for name in imports(path):
        assert not name.startswith(("llamafw_plugins", "llamafw_backends", "framework", "plugins.", "backends.")), name
        there = room(name)
        if there and here in STREET and there != here:
            assert STREET.index(there) < STREET.index(here), f"{here} may not import {name}"


def test_every_module_of_the_framework_is_on_it() -> None:
    found = {path.parts[2].removesuffix(".py") for path in files("framework")}
    assert found == {*STREET, "__init__", "__main__"}


@pytest.mark.parametrize("path", files("plugins", "backends", "examples"), ids=str)
def test_plugins_use_only_the_public_names(path: Path) -> None:
    public = {f"llamafw.{name}" for name in llamafw.__all__}
    if "tests" in path.parts:
        public |= {SUITES, *(f"{SUITES}.{name}" for name in conformance.__all__)}
    assert {name for name in imports(path) if name.startswith("llamafw.")} <= public


@pytest.mark.parametrize("path", files("examples"), ids=str)
def test_examples_know_nothing_of_the_built_in_plugins(path: Path) -> None:
    """They are what others would publish: what they need is in `llamafw`, or they bring it."""
    assert not [name for name in imports(path) if name.startswith(("llamafw_plugins", "llamafw_backends", "support"))]


def test_public_names_are_sorted_and_exist() -> None:
    assert sorted(llamafw.__all__, key=str.lower) == sorted(set(llamafw.__all__), key=str.lower)
    assert all(hasattr(llamafw, name) for name in llamafw.__all__)


@pytest.mark.parametrize("heavy", ["numba", "onnxruntime", "torch", "transformers", "jinja2", "tokenizers", "gguf"])
def test_loading_plugins_is_cheap(heavy: str) -> None:
    code = f"import sys; from llamafw.plugins import Plugins; Plugins(); sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", files("framework", "plugins", "backends"), ids=str)
def test_every_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a module docstring is missing"


@pytest.mark.parametrize("path", files("framework", "plugins", "backends"), ids=str)
def test_every_ignore_has_a_reason(path: Path) -> None:
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        for mark in ("# type: ignore", "# noqa"):
            if mark in line:
                assert "#" in line.split(mark, 1)[1], f"{path}:{number} ignores without saying why"
