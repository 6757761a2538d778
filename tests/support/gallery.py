"""Write docs/gallery.md from ``examples/``: ``python tests/support/gallery.py > docs/gallery.md``."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "Sampling": ("register_samplers",),
    "Models": (
        "register_architectures",
        "register_operators",
        "register_quants",
        "open_model",
        "register_backends",
        "create_engine",
    ),
    "Text": ("register_chat_formats", "register_tool_parsers", "register_tokenizers"),
    "Structured output": ("register_grammars",),
    "Requests and server events": ("prepare_request", "request_finished", "model_loaded"),
    "API operations": ("register_endpoints",),
    "Authentication and HTTP": ("register_authenticators", "wrap_asgi"),
    "Commands": ("register_commands",),
}
"""Hooks of each section. A package is listed in the first section with one of its hooks."""

HEAD = """\
# Gallery

Complete plugin packages, at least one for every kind of plugin. Each has its own `pyproject.toml`, README and tests,
and imports only names that `llamafw` exports, and for kernels those of `llamafw_backends.numba_cpu.kernel_api`. The
test suite installs all of them and runs their tests. Copy one to start your own; [Write a plugin](plugins/index.md)
explains each kind. Install a package with `pip install ./examples/NAME`.

`make docs` writes this page from the folder `examples/`.
"""


def packages() -> Iterator[tuple[Path, str, list[str]]]:
    """Yield the folder, description and hooks of each package."""
    for file in sorted(ROOT.glob("examples/*/pyproject.toml")):
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        yield file.parent, project["description"], sorted(hooks(file.parent))


def hooks(folder: Path) -> set[str]:
    """Return the names of the hooks that a package implements."""
    found: set[str] = set()
    for file in [*folder.glob("*.py"), *folder.glob("llamafw_*/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
                found |= {node.name} & {node.name for mark in marks if mark.endswith("hookimpl")}
    return found


def page() -> str:
    """Return the text of the page."""
    parts, remaining = [HEAD], list(packages())

    for heading, section_hooks in SECTIONS.items():
        rows = [row for row in remaining if set(section_hooks) & set(row[2])]
        remaining = [row for row in remaining if row not in rows]
        if rows:
            parts.append(f"\n## {heading}\n\n| Package | Kind | What it does | Hooks |\n|---|---|---|---|\n")
            parts += map(table_row, rows)

    if remaining:
        names = ", ".join(folder.name for folder, _, _ in remaining)
        raise SystemExit(f"no section of the gallery has a hook of {names}: add one to SECTIONS")
    return "".join(parts)


def table_row(package: tuple[Path, str, list[str]]) -> str:
    """Return a package's row of a table.

    Its description must read ``WHAT IT DOES: a KIND for llamafw.``
    """
    folder, description, names = package
    match = re.fullmatch(r"(.*): (?:an? )?(.*?)(?: for llamafw)?\.?", description)
    if match is None:
        raise SystemExit(f"the description of {folder.name} does not end with ': a KIND for llamafw.'")

    text, kind = match.groups()
    hook_names = ", ".join(f"`{name}`" for name in names)
    return f"| [{folder.name}](../examples/{folder.name}) | {kind} | {text} | {hook_names} |\n"


if __name__ == "__main__":
    print(page(), end="")
