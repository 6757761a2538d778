"""Writes pages of the documentation that say which tests prove what, from marks of the tests.

``--write-pages`` writes them. In a run of the whole suite, `tests/docs/test_marked_pages.py` fails if one is out of
date.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class MarkedPage:
    """A page about what tests with a mark prove.

    Attributes
    ----------
    mark : str
        Name of the mark.
    path : Path
        The page.
    keys : callable
        Called with the arguments of a mark and the name of the test; returns what the test proves.
    render : callable
        Returns the page; its argument maps what is proven to the names of tests without their parameters.
    comparable : callable, optional
        Removes from a page what may differ from machine to machine.
    """

    mark: str
    path: Path
    keys: Callable[[tuple[Any, ...], str], Iterable[Hashable]]
    render: Callable[[Mapping[Any, Collection[str]]], str]
    comparable: Callable[[str], str] = str


class PageWriter:
    """Collects the marks of the tests, and compares a page with them."""

    def __init__(self, config: pytest.Config, page: MarkedPage) -> None:
        self.config, self.page = config, page
        self.tests: dict[Hashable, set[str]] = defaultdict(set)
        self.complete = False  # the run covers the whole suite

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers(self.page.mark):
                for key in self.page.keys(mark.args, item.nodeid):
                    self.tests[key].add(item.nodeid.partition("[")[0])

    def pytest_collection_finish(self) -> None:
        arguments = [str(argument) for argument in self.config.args]
        is_whole = arguments in (self.config.getini("testpaths"), [str(ROOT / "tests")], [str(ROOT)])
        self.complete = is_whole and not self.config.option.keyword and not self.config.option.markexpr
        if self.complete and self.config.getoption("--write-pages"):
            self.page.path.write_text(self.page.render(self.tests), encoding="utf-8")

    def is_current(self) -> bool:
        """Whether the page is what the marks of all tests say."""
        written = self.page.path.read_text("utf-8")
        return self.page.comparable(self.page.render(self.tests)) == self.page.comparable(written)


def by_file(tests: Iterable[str]) -> str:
    """Return the tests' names, grouped by file."""
    files: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests):
        file, _, name = test.partition("::")
        files[file.removeprefix("tests/")].append(f"`{name}`")
    return "; ".join(f"{file}: {', '.join(names)}" for file, names in files.items())
