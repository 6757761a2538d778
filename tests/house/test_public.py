"""Tests of the docstrings of what `llamafw` exports: numpy style, with every parameter and field documented."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import llamafw
from llamafw import interfaces, serving, types
from llamafw.settings import options

SECTIONS = {"Parameters", "Returns", "Yields", "Raises", "Notes", "References", "Examples", "See Also", "Attributes"}
EXPORTS = {name: getattr(llamafw, name) for name in llamafw.__all__}
OWN = {name: value for name, value in EXPORTS.items() if getattr(value, "__module__", "").startswith("llamafw")}
"""Exports that are defined in llamafw, and not imported from another library."""

CALLABLES = [name for name, value in OWN.items() if callable(value) and "Alias" not in type(value).__name__]
CLASSES = [name for name, value in OWN.items() if inspect.isclass(value) and value is not llamafw.Settings]


def is_protocol(value: type) -> bool:
    """Return whether a class is a `typing.Protocol`."""
    return bool(getattr(value, "_is_protocol", False))


def functions() -> Iterator[tuple[str, Any, str]]:
    """Yield the name, the function and the docstring of each exported function, method and constructor."""
    for name, value in OWN.items():
        if inspect.isfunction(value):
            yield name, value, inspect.getdoc(value) or ""
        elif inspect.isclass(value):
            for member, function in vars(value).items():
                function = getattr(function, "fget", None) or getattr(function, "__func__", function)
                if inspect.isfunction(function) and not member.startswith("_"):
                    yield f"{name}.{member}", function, inspect.getdoc(function) or ""

            if not dataclasses.is_dataclass(value) and "__init__" in vars(value) and not is_protocol(value):
                yield name, value.__init__, inspect.getdoc(value) or ""


FUNCTIONS = {name: (function, text) for name, function, text in functions()}


def submodules(package: ModuleType) -> list[ModuleType]:
    """Return the modules of a package."""
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def sections(docstring: str) -> dict[str, str]:
    """Return the sections of a docstring: https://numpydoc.readthedocs.io/en/latest/format.html"""
    parts = re.split(r"^([A-Z][\w ]*)\n-{3,}\n", docstring, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def class_source(value: type) -> tuple[list[str], ast.ClassDef]:
    """Return the lines of a class's module, and the class's syntax tree."""
    module = inspect.getmodule(value)
    assert module is not None
    lines = inspect.getsource(module).splitlines()
    tree = ast.parse("\n".join(lines))
    return lines, next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == value.__name__)


@pytest.mark.parametrize("name", CALLABLES)
def test_docstring_starts_with_a_sentence(name: str) -> None:
    summary = (inspect.getdoc(EXPORTS[name]) or "").split("\n\n")[0]
    assert summary, f"{name} has no docstring"
    assert summary.rstrip().endswith((".", ":", "…")), f"{name}: the summary does not end with a full stop"


def test_aliases_have_docstrings() -> None:
    documented: dict[str, bool] = {}
    for module in (*submodules(types), *submodules(interfaces), serving):
        body = ast.parse(inspect.getsource(module)).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in EXPORTS:
                has_docstring = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                documented[node.targets[0].id] = has_docstring

    assert {"Floats", "Ints", "Endpoint"} <= documented.keys()
    assert [name for name, has_docstring in documented.items() if not has_docstring] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_has_exactly_the_parameters(name: str) -> None:
    function, docstring = FUNCTIONS[name]
    assert docstring, f"{name} has no docstring"
    parts = sections(docstring)
    assert set(parts) <= SECTIONS, f"{name} has sections that are not in the numpydoc format"

    parameters = [parameter for parameter in inspect.signature(function).parameters if parameter not in ("self", "cls")]
    groups = re.findall(r"^\*{0,2}(\w+(?:, \w+)*) : ", parts.get("Parameters", ""), re.M)
    documented = {parameter for group in groups for parameter in group.split(", ")}
    assert documented <= set(parameters), f"{name} documents parameters that it does not have"

    in_code = {parameter for parameter in parameters if re.search(rf"``[^`]*\b{parameter}\b[^`]*``", docstring)}
    missing = set(parameters) - documented - in_code
    assert not missing, f"{name} does not document its parameters {sorted(missing)}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_documented(name: str) -> None:
    """A field is documented in the class docstring, in a comment on its line, or in a docstring below it."""
    lines, node = class_source(EXPORTS[name])
    docstring = inspect.getdoc(EXPORTS[name]) or ""

    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            field = statement.target.id
            comment = "  # " in lines[(statement.end_lineno or statement.lineno) - 1]
            below = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            in_class = re.search(rf"``[^`]*\b{field}\b[^`]*``|^{field} : ", docstring, re.M)
            assert comment or below or in_class, f"{name}.{field} is not documented"


def test_every_setting_has_a_help_text() -> None:
    assert set(options()) | {"extra", "plugin_tables"} == {field.name for field in dataclasses.fields(llamafw.Settings)}
    assert all(option.help for option in options().values())
