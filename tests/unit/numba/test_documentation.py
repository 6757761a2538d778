"""The documentation of the backend lists its modules, and its pages give the same measurements."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
NAME = "llamafw_backends.numba_cpu"
PACKAGE = ROOT / "backends" / NAME.replace(".", "/")
MODULES = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def listed_modules() -> list[str]:
    """Return the modules in the docstring of the package, in order."""
    docstring = (PACKAGE / "__init__.py").read_text("utf-8").split('"""')[1]
    _, _, modules = docstring.partition("before it:")
    return re.findall(r"\b([a-z_]+)(?: \([^)]*\))?[,.]", modules)


def imported_modules(module: str) -> set[str]:
    """Return the modules of the package that a module imports, except those for the type checker only.

    A package within it counts as one module.
    """
    paths = (PACKAGE / module).glob("*.py") if module in PACKAGES else [PACKAGE / f"{module}.py"]
    found = set()
    for path in paths:
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(NAME):
                _, _, name = node.module.rpartition(NAME)
                found |= {name.split(".")[1]} if name else {alias.name for alias in node.names}
    return found - {module}


def test_every_module_is_listed_after_those_it_imports() -> None:
    modules = listed_modules()
    assert sorted(modules) == sorted(MODULES | PACKAGES)

    n_imports = 0
    for i, module in enumerate(modules):
        imported = imported_modules(module)
        assert imported <= set(modules[:i]), f"{module} imports modules that are listed after it"
        n_imports += len(imported)
    assert n_imports > len(modules)


def test_page_lists_every_module() -> None:
    table, _, _ = (ROOT / "docs/kernels.md").read_text("utf-8").partition("## Weights")
    assert set(re.findall(r"`(\w+)(?:\.py|/)`", table)) == MODULES | PACKAGES


def test_both_pages_give_the_same_measurements() -> None:
    rows = re.findall(
        r"\| (decode|prefill), (\w+) \| (\d) \|.*?\| (\d+) \| (\d+) \| ([\d.]+) \|$",
        (ROOT / "docs/benchmarks.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 4
    kernels = (ROOT / "docs/kernels.md").read_text("utf-8")
    for kind, test, n_threads, *numbers in rows:
        threads = "1 thread" if n_threads == "1" else f"{n_threads} threads"
        assert f"| {kind}, {test}, {threads} | {' | '.join(numbers)} |" in kernels
