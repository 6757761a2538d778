"""Tests of the code's structure: import order, public names, file length and documentation of ignores."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llamafw
from llamafw.testing import conformance

ROOT = Path(__file__).parents[2]
IMPORT_ORDER = (
    "near_names errors snapshots code_cache types graph checkpoints options sampling_settings speculation_settings"
    " chat_settings settings"
    " interfaces sampling serving hookspecs registry plugins spec models evaluation engine server cli testing"
).split()
"""Each module of the framework imports only from modules to its left."""

CONFORMANCE = conformance.__name__
CUSTOM_QUANT = "backends/llamafw_backends/custom_quant"


def python_files(*folders: str) -> list[Path]:
    """Return all Python files below the folders, relative to the repository, without those of packages for Node."""
    paths = (path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in paths if "node_modules" not in path.parts)


def imported_names(path: Path, *, in_functions: bool = True) -> set[str]:
    """Return the modules and names that a file imports, except those for the type checker only.

    Without ``in_functions``, these are the imports that run when the module itself is imported.
    """
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If):
            is_ignored = ast.unparse(node.test) == "TYPE_CHECKING"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_ignored = not in_functions
        else:
            continue
        if is_ignored:
            node.body = [ast.Pass()]

    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def top_module(name: str) -> str | None:
    """Return the module of the import order that a name belongs to, if any."""
    parts = name.split(".")
    return parts[1] if parts[0] == "llamafw" and len(parts) > 1 and parts[1] in IMPORT_ORDER else None


def test_imports_of_a_file_are_found() -> None:
    """The tests below prove nothing if `imported_names` misses imports."""
    names = imported_names(Path("framework/llamafw/registry.py"))
    assert {"collections.abc", "llamafw.errors", "llamafw.errors.PluginError"} <= names
    assert "llamafw" in imported_names(Path("plugins/llamafw_plugins/samplers/top_k.py"))


@pytest.mark.parametrize("path", python_files("framework"), ids=str)
def test_framework_imports_only_from_the_left(path: Path) -> None:
    importer = path.parts[2].removesuffix(".py")

    for name in imported_names(path):
        outside = name.startswith(("llamafw_plugins", "llamafw_backends", "framework", "plugins.", "backends."))
        assert not outside, f"{path} imports {name}: the framework must not depend on plugins or backends"

        imported = top_module(name)
        if imported and importer in IMPORT_ORDER and imported != importer:
            in_order = IMPORT_ORDER.index(imported) < IMPORT_ORDER.index(importer)
            assert in_order, f"{path} imports {name}, which comes after {importer} in the import order"


def test_import_order_has_every_module_of_the_framework() -> None:
    modules = {path.parts[2].removesuffix(".py") for path in python_files("framework")}
    assert modules == {*IMPORT_ORDER, "__init__", "__main__"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions do not count, because they run later."""
    paths = {module_name(path): path for path in python_files("framework", "plugins", "backends")}
    imports: dict[str, set[str]] = {}
    for name, path in paths.items():
        modules = imported_names(path, in_functions=False) & paths.keys()
        packages = {module.rpartition(".")[0] for module in modules}  # `from llamafw import spec` names both
        imports[name] = modules - packages - {name}

    assert "llamafw.cli.parser" in imports["llamafw.cli.serve"]
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules of a circle


def module_name(path: Path) -> str:
    """Return the dotted name of a module below ``framework``, ``plugins`` or ``backends``."""
    return ".".join(path.with_suffix("").parts[1:]).removesuffix(".__init__")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/street.md"])
def test_pages_show_the_import_order(page: str) -> None:
    text = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))
    assert f"`{' '.join(IMPORT_ORDER)}`" in text


@pytest.mark.parametrize("path", python_files("plugins", "backends", "examples"), ids=str)
def test_plugins_import_only_public_names(path: Path) -> None:
    public = {f"llamafw.{name}" for name in llamafw.__all__}
    if "tests" in path.parts:
        public |= {CONFORMANCE, *(f"{CONFORMANCE}.{name}" for name in conformance.__all__)}

    private = {name for name in imported_names(path) if name.startswith("llamafw.")} - public
    assert not private, f"{path} imports names that llamafw does not export: {sorted(private)}"


@pytest.mark.parametrize("path", [*python_files("examples"), *python_files(CUSTOM_QUANT)], ids=str)
def test_examples_do_not_import_builtin_plugins(path: Path) -> None:
    """Examples are packages that others could publish, and so could be the tensor types in ``custom_quant``.

    They use only `llamafw`, what backends offer to tensor types, and what they contain.
    """
    packages = ("llamafw_plugins", "llamafw_backends", "support")
    offered = ("llamafw_backends.numba_cpu.kernel_api", "llamafw_backends.onnx.block_formats")
    allowed = offered if "tests" in path.parts else (*offered, ".".join(Path(CUSTOM_QUANT).parts[1:]))
    names = {name for name in imported_names(path) if name.startswith(packages)}
    assert not {name for name in names if not name.startswith(allowed)}


def test_public_names_are_sorted_and_exist() -> None:
    assert llamafw.__all__ == sorted(set(llamafw.__all__), key=str.lower)
    assert all(hasattr(llamafw, name) for name in llamafw.__all__)


@pytest.mark.parametrize("module", ["numba", "onnxruntime", "torch", "transformers", "jinja2", "tokenizers", "gguf"])
def test_loading_plugins_imports_no_slow_module(module: str) -> None:
    code = f"import sys; from llamafw.plugins import Plugins; Plugins(); sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", python_files("framework", "plugins", "backends"), ids=str)
def test_files_are_short_and_have_a_docstring(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    n_lines = len(text.splitlines())
    assert n_lines <= 400, f"{path} has {n_lines} lines; split it, the limit is 400"
    assert ast.get_docstring(ast.parse(text)), f"{path} has no module docstring"


def test_every_ignore_has_a_reason() -> None:
    """The reason is a second comment on the line."""
    ignore = re.compile(r"# (?:type: ignore|noqa)\b(.*)$", re.M)
    paths = python_files("framework", "plugins", "backends", "benchmarks", "examples", "tests")
    ignores = [(path, rest) for path in paths for rest in ignore.findall((ROOT / path).read_text("utf-8"))]
    assert len(ignores) > 40

    without_reason = [f"{path}: {rest}" for path, rest in ignores if "# " not in rest]
    assert not without_reason, "these lines ignore an error without a reason:\n" + "\n".join(without_reason)
