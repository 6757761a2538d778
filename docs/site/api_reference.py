"""A Sphinx extension that adds the docstrings of the names that the tables in docs/reference list.

In the repository, each name links to the file that defines it; on the site, to its description below the table.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
import sys
import tokenize
from functools import cache
from types import ModuleType
from typing import Any

FOLDER = "docs/reference/"
_ROW = re.compile(r"^\| \[`(llamafw[\w.]*)`\]\([^)]*\.py\)", re.M)
_NO_MEMBERS = ("llamafw.Settings",)  # docs/cli.md describes each setting


def _add_descriptions(app: Any, docname: str, source: list[str]) -> None:
    """Make the names in the table lead to descriptions, and add these to the page."""
    if docname.startswith(FOLDER):
        names = _ROW.findall(source[0])
        table = _ROW.sub(r"| {py:obj}`\1`", source[0])
        directives = "\n".join(_directive(name) for name in names)
        source[0] = f"{table}\n## Descriptions\n\n```{{eval-rst}}\n.. py:currentmodule:: llamafw\n\n{directives}```\n"


def _directive(name: str) -> str:
    value = _object(name)
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        members = "" if name in _NO_MEMBERS else "   :members:\n   :undoc-members:\n"
        return f".. auto{kind}:: {name}\n   :show-inheritance:\n{members}\n"
    return f".. autofunction:: {name}\n\n" if inspect.isfunction(value) else f".. autodata:: {name}\n\n"


def _object(name: str) -> Any:
    """Return what a name such as ``llamafw.graph.Value`` stands for."""
    module, _, rest = name.rpartition(".")
    return getattr(importlib.import_module(module), rest)


def _add_comment(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Use the comment beside a field, or the string below an assignment, as its description."""
    owner, _, field = name.rpartition(".")
    if what in ("attribute", "property"):
        text = next((text for cls in _object(owner).__mro__ if (text := _comments(cls).get(field))), None)
    elif what == "data":
        text = _text_below(_defining_module(importlib.import_module(owner), field), field)
    else:
        return
    if text is not None:
        lines[:] = inspect.cleandoc(text).splitlines()


def _skip_undescribed(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what has a name with an underscore."""
    return True if name.startswith("_") else None


@cache
def _comments(cls: type) -> dict[str, str]:
    """Return the comments beside the fields of a class."""
    try:
        text = inspect.cleandoc("\n" + inspect.getsource(cls))
    except (OSError, TypeError):  # it is built in, or a subscripted alias
        return {}
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(text).body
    assert isinstance(definition, ast.ClassDef)
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    return {
        ast.unparse(node.target): comments[node.end_lineno]
        for node in fields
        if node.end_lineno in comments
    }


def _defining_module(module: ModuleType, name: str) -> ModuleType:
    """Return the module that defines a name, which another module may import."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and any((each.asname or each.name) == name for each in node.names):
            return _defining_module(sys.modules[str(node.module)], name)
    return module


def _text_below(module: ModuleType, name: str) -> str:
    """Return the string below the assignment of a name; "" if there is none."""
    body = ast.parse(inspect.getsource(module)).body
    for node, following in zip(body, body[1:], strict=False):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if is_text and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return str(following.value.value)  # type: ignore[attr-defined]  # `is_text` says that it has one
    return ""


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", _add_descriptions)
    app.connect("autodoc-process-docstring", _add_comment, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip_undescribed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
