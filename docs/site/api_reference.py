"""A Sphinx extension that adds the docstrings of the names that the tables in docs/reference list.

In the repository, each name links to the file that defines it; on the site, to its description below the table.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
import tokenize
from functools import cache
from typing import Any

from docutils import nodes
from reference_pages import text_below
from sphinx import addnodes

import llamafw
from llamafw import checkpoints, graph, hookspecs

FOLDER = "docs/reference/"
_ROW = re.compile(r"^\| \[`(llamafw[\w.]*)`\]\([^)]*\.py\)", re.M)
_NOT_CODE = re.compile(r"(?<== )<[^<>]*>")
_PUBLIC = (llamafw, graph, checkpoints, hookspecs)
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
        has_base = any(base.__module__.startswith("llamafw") for base in value.__bases__)
        bases = "   :show-inheritance:\n" if has_base else ""
        return f".. auto{kind}:: {name}\n{bases}{members}\n"

    if inspect.isfunction(value):
        return f".. autofunction:: {name}\n\n"
    options = "   :no-value:\n" if repr(value).startswith("<") else ""
    return f".. autodata:: {name}\n{options}\n"


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
        text = text_below(importlib.import_module(owner), field)
    else:
        return
    if text is not None:
        lines[:] = inspect.cleandoc(text).splitlines()


def _simplify_signature(
    app: Any, what: str, name: str, value: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Leave out the signatures of protocols, which nobody calls, and defaults that are not Python code."""
    if signature is None:
        return None
    return ("", None) if getattr(value, "_is_protocol", False) else (_NOT_CODE.sub("...", signature), returned)


def _point_to_public_names(app: Any, doctree: nodes.document) -> None:
    """Make types in signatures lead to the public name of a class, and to nothing that only has a similar name."""
    for node in doctree.findall(addnodes.pending_xref):
        if node.get("refdomain") != "py":
            continue
        node.attributes.pop("refspecific", None)
        module, _, name = node["reftarget"].rpartition(".")
        for public in _PUBLIC:
            if name in public.__all__ and getattr(getattr(public, name), "__module__", "") == module:
                node["reftarget"] = f"{public.__name__}.{name}"


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
    return {ast.unparse(node.target): comments[node.end_lineno] for node in fields if node.end_lineno in comments}


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", _add_descriptions)
    app.connect("autodoc-process-docstring", _add_comment, priority=600)  # after napoleon, which reads "a: b" as a type
    app.connect("autodoc-process-signature", _simplify_signature)
    app.connect("doctree-read", _point_to_public_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
