"""Tests that the documentation matches the code: hooks, protocols, modules, generated pages and links."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafw import hookspecs, interfaces, serving
from llamafw.cli import cli_page
from support import gallery, json_schema

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
LINK = re.compile(r"\]\(([^)#\s]+)")
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.NAME}_spec")}
PROTOCOLS = {
    name: value
    for name, value in (vars(interfaces) | vars(serving)).items()
    if inspect.isclass(value) and value.__module__.startswith((f"{interfaces.__name__}.", serving.__name__))
}
MODULES = sorted(
    path.relative_to(ROOT / "framework/llamafw").as_posix() for path in (ROOT / "framework/llamafw").rglob("*.py")
)


def read(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def links(page: Path) -> list[Path]:
    """Return the targets of a page's links within the repository."""
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    return [(page.parent / target).resolve() for target in targets if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented(name: str) -> None:
    signature = ", ".join(inspect.signature(HOOKS[name]).parameters)
    assert f"## {name}({signature})" in read("docs/hooks.md")
    assert inspect.getdoc(HOOKS[name])


def test_hooks_page_has_only_existing_hooks() -> None:
    assert set(re.findall(r"^## (\w+)\(", read("docs/hooks.md"), re.M)) == set(HOOKS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_documented(name: str) -> None:
    text = read("docs/protocols.md")
    assert re.search(rf"^## {name}$", text, re.M)
    section = text.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]

    for member, value in vars(PROTOCOLS[name]).items():
        value = getattr(value, "__func__", value)  # the function of a class method
        if inspect.isfunction(value) and not member.startswith("_"):
            call = f"`{member}({', '.join(parameters(value))})`"
            assert call in section, f"docs/protocols.md lacks {call} in the section {name}"
        elif isinstance(value, property):
            assert f"`{member}`" in section, f"docs/protocols.md lacks `{member}` in the section {name}"

    if getattr(PROTOCOLS[name], "_is_protocol", False):
        for attribute in PROTOCOLS[name].__annotations__:
            assert f"`{attribute}`" in section, f"docs/protocols.md lacks `{attribute}` in the section {name}"


def parameters(function: Any) -> Iterator[str]:
    """Yield the names of a function's parameters, with asterisks, without self and cls."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in ("self", "cls"):
            asterisks = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
            yield asterisks + parameter.name


def test_protocols_page_has_only_existing_protocols() -> None:
    assert set(re.findall(r"^## (\w+)$", read("docs/protocols.md"), re.M)) == set(PROTOCOLS)


def test_flags_page_is_current() -> None:
    assert read("docs/cli.md") == cli_page.page(), "run make docs"


def test_gallery_is_current() -> None:
    assert read("docs/gallery.md") == gallery.page(), "run make docs"


@pytest.mark.inventory("G-02", "G-03")
def test_json_schema_page_is_current() -> None:
    assert read("docs/json-schema.md") == json_schema.page(), "run make docs"


PICTURES = {"docs/pictures/sampling.py": "docs/sampling.md", "docs/pictures/ratios.py": "docs/benchmarks.md"}
"""The scripts that draw pictures, and the pages that show them."""


def test_pictures_are_current() -> None:
    """Compare to a tenth of a pixel, because processors round exponentials differently."""
    pictures = {
        path: (picture, page)
        for script, page in PICTURES.items()
        for path, picture in runpy.run_path(str(ROOT / script))["pictures"]().items()
    }
    assert set(pictures) == set(ROOT.glob("docs/pictures/*.svg"))

    number = re.compile(r"\d+\.\d+")
    for path, (picture, page) in pictures.items():
        saved = path.read_text(encoding="utf-8")
        assert number.sub("", saved) == number.sub("", picture), f"{path.name} is not current: run make docs"
        saved_values, values = ([float(value) for value in number.findall(text)] for text in (saved, picture))
        assert saved_values == pytest.approx(values, abs=0.11), f"{path.name} is not current: run make docs"
        assert f"(pictures/{path.name})" in read(page)


SCREENSHOTS = {"docs/pictures/webui.py": "docs/webui.md", "docs/pictures/api_page.py": "docs/api.md"}
"""The scripts that take screenshots, and the pages that show them. A picture's name begins with its script's."""


def test_screenshots_are_shown_and_taken_by_the_script() -> None:
    found = set()
    for script, page in SCREENSHOTS.items():
        name = Path(script).stem
        shown = set(re.findall(r"\(pictures/([\w-]+\.png)\)", read(page)))
        taken = re.findall(rf"\b{name}(?:-\w+)?(?=[\".])", read(script).split("def take_all")[1])
        assert shown == {f"{picture}.png" for picture in taken}
        found |= shown
    assert len(found) >= 8
    assert found == {path.name for path in ROOT.glob("docs/pictures/*.png")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_exist(page: Path) -> None:
    missing = [target for target in links(page) if not target.exists()]
    assert not missing, f"{page.relative_to(ROOT)} has links to files that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_sections_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:\s]*)#([\w-]+)\)", page.read_text(encoding="utf-8"))
    missing = []
    for path, anchor in targets:
        target = (page.parent / path).resolve() if path else page
        if anchor not in anchors(target):
            missing.append(f"{path}#{anchor}")
    assert not missing, f"{page.relative_to(ROOT)} has links to sections that do not exist: {missing}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs/index.md"
    assert index in links(ROOT / "README.md")

    reached, queue = {index}, [index]
    while queue:
        pages = {target for target in links(queue.pop()) if target.suffix == ".md" and target.exists()}
        queue += pages - reached
        reached |= pages

    unreachable = set(ROOT.glob("docs/**/*.md")) - reached
    assert not unreachable, f"no link leads from docs/index.md to {sorted(map(str, unreachable))}"


@pytest.mark.parametrize("module", MODULES)
def test_street_names_every_module_of_the_framework(module: str) -> None:
    assert f"(../framework/llamafw/{module})" in read("docs/street.md"), f"docs/street.md does not link {module}"


def test_street_shows_every_hook() -> None:
    section = read("docs/street.md").split("## Where plugins come in")[1]
    assert [name for name in HOOKS if f"`{name}`" not in section] == []
