"""The pages in docs/reference: they list each name that plugins may use once, with a sentence from its docstring."""

from __future__ import annotations

import inspect
import re
import runpy
from collections import Counter
from pathlib import Path

import pytest

import llamafw
from llamafw import checkpoints, graph, hookspecs

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docs/site/reference_pages.py"))
FOLDER, PAGES, render = SCRIPT["FOLDER"], SCRIPT["PAGES"], SCRIPT["render"]
ROW = re.compile(r"^\| \[`(.*?)`\]\((.*?)\) \| (.*) \|$", re.M)


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text("utf-8") == render(name), "run make docs"


def test_no_other_page_exists() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*PAGES}


def test_each_name_is_listed_once_with_a_sentence() -> None:
    rows = [row for name in PAGES for row in ROW.findall(render(name))]
    hooks = {name for name, value in vars(hookspecs).items() if inspect.isfunction(value)}
    public = [f"{module.__name__}.{name}" for module in (llamafw, graph, checkpoints) for name in module.__all__]
    names = [*public, *(f"llamafw.hookspecs.{name}" for name in hooks)]
    assert Counter(name for name, _, _ in rows) == Counter(names)
    assert [name for name, _, sentence in rows if not sentence.strip()] == []


def test_names_lead_to_the_files_that_define_them() -> None:
    links = {name: link for page in PAGES for name, link, _ in ROW.findall(render(page))}
    assert links["llamafw.GenerateRequest"] == "../../framework/llamafw/types/generation.py"
    assert links["llamafw.StopType"] == "../../framework/llamafw/types/generation.py"
    assert links["llamafw.hookspecs.wrap_asgi"] == "../../framework/llamafw/hookspecs/running.py"
    assert links["llamafw.graph"] == "graph.md"
    assert all((FOLDER / link).resolve().is_file() for link in links.values())
