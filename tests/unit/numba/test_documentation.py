"""The documentation of the backend lists its modules, and its pages give the same measurements."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "backends/llamafw_backends/numba_cpu"
MODULES = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
IMPORT = re.compile(r"from llamafw_backends\.numba_cpu(?:\.(\w+) import| import ([\w, ]+))")


def listed_modules() -> list[str]:
    """Return the modules in the docstring of the package, in order."""
    docstring = (PACKAGE / "__init__.py").read_text("utf-8").split('"""')[1]
    _, _, modules = docstring.partition("before it:")
    return re.findall(r"\b([a-z_]+)(?: \([^)]*\))?[,.]", modules)


def test_every_module_is_listed_after_those_it_imports() -> None:
    modules = listed_modules()
    assert sorted(modules) == sorted(MODULES)

    n_imports = 0
    for i, module in enumerate(modules):
        text = (PACKAGE / f"{module}.py").read_text("utf-8")
        imported = {name for one, several in IMPORT.findall(text) for name in [one] + several.split(", ") if name}
        assert imported <= set(modules[:i]), f"{module} imports modules that are listed after it"
        n_imports += len(imported)
    assert n_imports > len(modules)


def test_page_lists_every_module() -> None:
    table, _, _ = (ROOT / "docs/kernels.md").read_text("utf-8").partition("## Weights")
    assert set(re.findall(r"`(\w+)\.py`", table)) == MODULES


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
