"""What `llamafw` exports is documented, numpy style: every parameter and field is said, and none that is not there."""

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
CLASSES = [name for name, thing in EXPORTS.items() if inspect.isclass(thing)]
OURS = {name: thing for name, thing in EXPORTS.items() if getattr(thing, "__module__", "").startswith("llamafw")}


def functions() -> Iterator[tuple[str, Any, str]]:
    """Yield the name, the function and what documents it: functions, methods, and classes for their ``__init__``."""
    for name, thing in OURS.items():
        if inspect.isfunction(thing):
            yield name, thing, inspect.getdoc(thing) or ""
        elif inspect.isclass(thing):
            for member, value in vars(thing).items():
                value = getattr(value, "fget", None) or getattr(value, "__func__", value)
                if inspect.isfunction(value) and not member.startswith("_"):
                    yield f"{name}.{member}", value, inspect.getdoc(value) or ""
            if not dataclasses.is_dataclass(thing) and "__init__" in vars(thing) and not interfaces_protocol(thing):
                yield name, thing.__init__, inspect.getdoc(thing) or ""


def interfaces_protocol(thing: type) -> bool:
    return bool(getattr(thing, "_is_protocol", False))


def submodules(package: ModuleType) -> list[ModuleType]:
    """Return the modules of a package."""
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


FUNCTIONS = {name: (function, text) for name, function, text in functions()}


def sections(text: str) -> dict[str, str]:
    """The sections of a numpydoc docstring: https://numpydoc.readthedocs.io/en/latest/format.html"""
    parts = re.split(r"^([A-Z][\w ]*)\n-{3,}\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def source(thing: Any) -> tuple[list[str], ast.ClassDef]:
    lines = inspect.getsource(inspect.getmodule(thing)).splitlines()  # type: ignore[arg-type]  # ours have one
    tree = ast.parse("\n".join(lines))
    return lines, next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == thing.__name__)


@pytest.mark.parametrize("name", [name for name, thing in EXPORTS.items() if callable(thing) and name in OURS])
def test_it_starts_with_a_sentence(name: str) -> None:
    thing = EXPORTS[name]
    if "Alias" in type(thing).__name__:  # documented where it is assigned
        return
    text = inspect.getdoc(thing) or ""
    first = text.split("\n\n")[0]
    assert first, f"{name} has no docstring"
    assert first.rstrip().endswith((".", ":", "…")), f"{name}: the summary is no sentence"


@pytest.mark.parametrize("module", [*submodules(types), *submodules(interfaces), serving])
def test_aliases_say_what_they_are(module: Any) -> None:
    body = ast.parse(inspect.getsource(module)).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in EXPORTS:
            said = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            assert said, f"{node.targets[0].id} has no docstring below it"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_said_and_no_other(name: str) -> None:
    function, text = FUNCTIONS[name]
    assert text, f"{name} has no docstring"
    parts = sections(text)
    assert set(parts) <= SECTIONS, f"{name} has sections that numpydoc does not know"
    names = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
    listed = re.findall(r"^\*{0,2}(\w+(?:, \w+)*) : ", parts.get("Parameters", ""), re.M)
    listed = [one for group in listed for one in group.split(", ")]
    assert set(listed) <= set(names), f"{name} documents parameters that it does not have"
    unsaid = [one for one in names if one not in listed and not re.search(rf"``[^`]*\b{one}\b[^`]*``", text)]
    assert not unsaid, f"{name} does not say what {unsaid} is"


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_said(name: str) -> None:
    """In the docstring, in a comment on its line, or below it."""
    thing = EXPORTS[name]
    if name not in OURS or thing is llamafw.Settings:
        return
    lines, node = source(thing)
    text = inspect.getdoc(thing) or ""
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            line = lines[(statement.end_lineno or statement.lineno) - 1]
            below = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            field = statement.target.id
            said = "  # " in line or below or re.search(rf"``[^`]*\b{field}\b[^`]*``|^{field} : ", text, re.M)
            assert said, f"{name}.{field} is not said"


def test_every_setting_has_its_help() -> None:
    assert set(options()) | {"extra", "plugin_tables"} == {field.name for field in dataclasses.fields(llamafw.Settings)}
    assert all(option.help for option in options().values())
