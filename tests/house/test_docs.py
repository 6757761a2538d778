"""The documentation against the code: hooks, protocols, links."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafw import hookspecs, interfaces, serving
from llamafw.cli import reference
from support import gallery, json_schema

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.NAME}_spec")}
PROTOCOLS = {
    name: thing
    for name, thing in (vars(interfaces) | vars(serving)).items()
    if inspect.isclass(thing) and thing.__module__.startswith((f"{interfaces.__name__}.", serving.__name__))
}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented(name: str) -> None:
    signature = ", ".join(inspect.signature(HOOKS[name]).parameters)
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    assert f"## {name}({signature})" in text
    assert inspect.getdoc(HOOKS[name])


def test_no_other_hook_is_documented() -> None:
    text = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\w+)\(", text, re.M)) == set(HOOKS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_documented(name: str) -> None:
    text = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {name}$", text, re.M)
    section = text.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]
    for member, value in vars(PROTOCOLS[name]).items():
        value = getattr(value, "__func__", value)  # of class methods
        if inspect.isfunction(value) and not member.startswith("_"):
            call = f"`{member}({', '.join(parameters(value))})`"
            assert call in section, f"{call} is missing in docs/protocols.md, at {name}"
        elif isinstance(value, property):
            assert f"`{member}`" in section, f"{member} is missing in docs/protocols.md, at {name}"
    if getattr(PROTOCOLS[name], "_is_protocol", False):
        for attribute in PROTOCOLS[name].__annotations__:
            assert f"`{attribute}`" in section, f"{attribute} is missing in docs/protocols.md, at {name}"


def parameters(function: Any) -> Iterator[str]:
    """The names of what is passed, as they stand in a signature."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in ("self", "cls"):
            yield {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name


def test_no_other_protocol_is_documented() -> None:
    text = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\w+)$", text, re.M)) == set(PROTOCOLS)


def test_the_page_of_flags_is_that_of_the_table() -> None:
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == reference.page(), "make docs"


def test_the_gallery_is_that_of_the_examples() -> None:
    assert (ROOT / "docs/gallery.md").read_text(encoding="utf-8") == gallery.page(), "make docs"


def test_the_pictures_are_what_their_script_draws() -> None:
    """To a tenth of a pixel: processors round exponentials differently."""
    drawn = runpy.run_path(str(ROOT / "docs/pictures/sampling.py"))["pictures"]()
    assert set(drawn) == set(ROOT.glob("docs/pictures/*.svg"))
    guide = (ROOT / "docs/sampling.md").read_text(encoding="utf-8")
    for path, picture in drawn.items():
        there = path.read_text(encoding="utf-8")
        number = re.compile(r"\d+\.\d+")
        assert number.sub("", there) == number.sub("", picture), f"make docs: {path.name}"
        values = [[float(value) for value in number.findall(text)] for text in (there, picture)]
        assert values[0] == pytest.approx(values[1], abs=0.11), f"make docs: {path.name}"
        assert f"(pictures/{path.name})" in guide


@pytest.mark.inventory("G-02", "G-03")
def test_the_page_of_json_schema_is_that_of_the_cases() -> None:
    assert (ROOT / "docs/json-schema.md").read_text(encoding="utf-8") == json_schema.page(), "make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_map_shows_every_hook() -> None:
    text = (ROOT / "docs/street.md").read_text(encoding="utf-8").split("## Where plugins come in")[1]
    assert [name for name in HOOKS if f"`{name}`" not in text] == []
