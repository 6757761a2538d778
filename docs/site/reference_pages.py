"""Write docs/reference from the docstrings of what plugins may use: ``python docs/site/reference_pages.py``."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import llamafw
from llamafw import checkpoints, graph, hookspecs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/reference"


class Page(NamedTuple):
    """A page: its title and first paragraph, a public module, and where the names on the page are defined."""

    title: str
    text: str
    module: ModuleType
    origins: tuple[str, ...]


PAGES = {
    "hooks": Page(
        "Hooks: signatures",
        "The functions that a plugin can implement and mark with `llamafw.hookimpl`. "
        "[Hooks](../hooks.md) is the manual.",
        hookspecs,
        ("framework/llamafw/hookspecs/registration.py", "framework/llamafw/hookspecs/running.py"),
    ),
    "protocols": Page(
        "Protocols: signatures",
        "What plugins register, what it is called with, and the server as plugins see it. "
        "[Protocols](../protocols.md) is the manual.",
        llamafw,
        ("framework/llamafw/interfaces/", "framework/llamafw/serving.py"),
    ),
    "values": Page(
        "Requests, responses and other values",
        "What plugins receive and return.",
        llamafw,
        ("framework/llamafw/types/", "framework/llamafw/settings.py", "framework/llamafw/snapshots.py"),
    ),
    "errors": Page(
        "Errors",
        "What plugins raise and catch. [HTTP](../http.md) says which status a client gets.",
        llamafw,
        ("framework/llamafw/errors.py",),
    ),
    "helpers": Page(
        "Functions for plugins",
        "What plugins call: to mark hooks, answer requests, compile code and open models.",
        llamafw,
        ("framework/llamafw/",),  # what is on no page above
    ),
    "graph": Page(
        "llamafw.graph: models as graphs",
        "What [architectures](../plugins/architecture.md) and [operators](../plugins/operator.md) are made of.",
        graph,
        ("framework/llamafw/graph/",),
    ),
    "checkpoints": Page(
        "llamafw.checkpoints: checkpoints of Hugging Face",
        "What [conversions](../plugins/conversion.md) are made of.",
        checkpoints,
        ("framework/llamafw/checkpoints/",),
    ),
}
"""The pages by the names of their files."""


def names_on(name: str) -> list[str]:
    """Return the public names on a page, in alphabetical order."""
    page = PAGES[name]
    others = [other for other in list(PAGES)[: list(PAGES).index(name)] if PAGES[other].module is page.module]
    placed = {each for other in others for each in names_on(other)}
    names = [each for each in page.module.__all__ if each not in placed]
    return sorted((each for each in names if _origin(page.module, each)[0].startswith(page.origins)), key=str.lower)


def _origin(module: ModuleType, name: str) -> tuple[str, str]:
    """Return the file that defines a public name, relative to the repository, and the first sentence about it."""
    value = getattr(module, name)
    if isinstance(value, ModuleType):
        return _relative(value.__file__), _sentence(inspect.getdoc(value))
    path = _defining_file(Path(str(module.__file__)), name)
    has_docstring = inspect.isclass(value) or inspect.isfunction(value)
    return _relative(path), _sentence(inspect.getdoc(value) if has_docstring else text_below(module, name))


def text_below(module: ModuleType, name: str) -> str:
    """Return the string below the assignment of a name, which the module may import; "" if there is none."""
    body = _tree(_defining_file(Path(str(module.__file__)), name)).body
    for node, following in zip(body, body[1:], strict=False):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            match following:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    return inspect.cleandoc(text)
    return ""


def _defining_file(path: Path, name: str) -> Path:
    """Return the file that defines a name, which another file may import."""
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and any((each.asname or each.name) == name for each in node.names):
            file = ROOT.joinpath("framework", *str(node.module).split("."))
            return _defining_file(file / "__init__.py" if file.is_dir() else file.with_suffix(".py"), name)
    return path


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _relative(path: Any) -> str:
    return Path(path).resolve().relative_to(ROOT).as_posix()


def _sentence(text: str | None) -> str:
    """Return the first paragraph, as Markdown in one line."""
    first = (text or "").partition("\n\n")[0]
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(first.split())).replace("|", r"\|")


def render(name: str) -> str:
    """Return a page."""
    page = PAGES[name]
    return "\n".join([f"# {page.title}\n", page.text, "", "| Name | |", "|---|---|", *_rows(name), ""])


def _rows(name: str) -> Iterator[str]:
    module = PAGES[name].module
    for each in names_on(name):
        file, sentence = _origin(module, each)
        is_page = isinstance(getattr(module, each), ModuleType)
        yield f"| [`{module.__name__}.{each}`]({f'{each}.md' if is_page else f'../../{file}'}) | {sentence} |"


if __name__ == "__main__":
    for name in PAGES:
        (FOLDER / f"{name}.md").write_text(render(name), "utf-8")
