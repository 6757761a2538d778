"""docs/gallery.md, made from ``examples/``: ``python tests/support/gallery.py > docs/gallery.md``."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "Sampling": ("register_samplers",),
    "Models": ("register_architectures", "register_quants", "open_model", "register_backends", "create_engine"),
    "Text": ("register_chat_formats", "register_tool_parsers", "register_tokenizers"),
    "Answers of a certain form": ("register_grammars",),
    "Requests and events": ("prepare_request", "request_finished", "model_loaded"),
    "Operations": ("register_endpoints",),
    "Around the server": ("register_authenticators", "wrap_asgi"),
    "Commands": ("register_commands",),
}
"""Heading → hooks. A package is listed under the first that it implements."""

HEAD = """\
# Gallery

Complete distributions, one or more for every kind of plugin: each has its own `pyproject.toml`, README and tests, is
installed and run in CI, and imports nothing but what `llamafw` exports. Copy one to start your own;
[docs/plugins](plugins/index.md) explains each kind. Install with `pip install ./examples/NAME`.

This page is made from `examples/` by `make docs`.
"""


def packages() -> Iterator[tuple[Path, str, list[str]]]:
    """Yield folder, description and hooks of every distribution."""
    for file in sorted(ROOT.glob("examples/*/pyproject.toml")):
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        yield file.parent, project["description"], sorted(hooks(file.parent))


def hooks(folder: Path) -> set[str]:
    """Return the names of the functions that are marked as hooks."""
    found: set[str] = set()
    for file in [*folder.glob("*.py"), *folder.glob("llamafw_*/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
                found |= {node.name} & {node.name for mark in marks if mark.endswith("hookimpl")}
    return found


def page() -> str:
    """Return the page."""
    parts, left = [HEAD], list(packages())
    for heading, kinds in SECTIONS.items():
        rows = [row for row in left if set(kinds) & set(row[2])]
        left = [row for row in left if row not in rows]
        if rows:
            parts.append(f"\n## {heading}\n\n| Package | Kind | What it does | Hooks |\n|---|---|---|---|\n")
            parts += map(line, rows)
    if left:
        raise SystemExit(f"no section has {', '.join(folder.name for folder, _, _ in left)}")
    return "".join(parts)


def line(row: tuple[Path, str, list[str]]) -> str:
    """Return a package's line of a table. Descriptions read ``WHAT IT DOES: a KIND for llamafw.``"""
    folder, text, names = row
    found = re.fullmatch(r"(.*): (?:an? )?(.*?)(?: for llamafw)?\.?", text)
    if found is None:
        raise SystemExit(f"the description of {folder.name} does not end with ': a KIND for llamafw.'")
    what, kind = found.groups()
    listed = ", ".join(f"`{name}`" for name in names)
    return f"| [{folder.name}](../examples/{folder.name}) | {kind} | {what} | {listed} |\n"


if __name__ == "__main__":
    print(page(), end="")
