"""docs/compatibility.md, made from the tests: which test proves which row of llama-server's inventory.

A test names its rows by ``@pytest.mark.inventory("C-017", "E-017")``. A run of the whole suite fails if a test fails or
if the page does not say what the marks say; ``--compatibility FILE`` writes it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/compatibility.md"
ROWS = dict(line.split(" ", 1) for line in Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines() if line)
"""Row → what it promises, in the inventory's order."""

SECTIONS = {
    "C": "Command line",
    "P": "Process",
    "H": "HTTP",
    "E": "Endpoints and fields",
    "S": "Sampling",
    "K": "Slots and cache",
    "G": "Structured output",
    "R": "Statuses",
}
PROVEN, UNPROVEN = "proven", "no test"

HEAD = """\
# Compatibility with llama-server, row by row

Made from the tests by `make compatibility`. A row is a promise of llama-server's documentation (flags, endpoints,
fields, behaviour), as this server keeps it; the tests beside it prove it: a run of the whole suite fails if one of them
fails, or if this page is not current.

"""


class Inventory:
    """Collects which test proves which row, and holds the page against it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.rows: dict[str, set[str]] = defaultdict(set)  # row → tests, without their parameters
        self.complete = False
        self.fault = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("inventory"):
                for row in mark.args:
                    check_row(row, item.nodeid)
                    self.rows[row].add(item.nodeid.partition("[")[0])

    def pytest_collection_finish(self) -> None:
        asked = [str(arg) for arg in self.config.args]
        whole = asked in (self.config.getini("testpaths"), [str(ROOT / "tests")], [str(ROOT)])
        self.complete = whole and not self.config.option.keyword and not self.config.option.markexpr
        if self.complete and (target := self.config.getoption("--compatibility")):
            Path(target).write_text(page(self.rows), encoding="utf-8")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.complete and not session.testsfailed and page(self.rows) != PAGE.read_text("utf-8"):
            self.fault = f"{PAGE.relative_to(ROOT)} is not current: `make compatibility` writes it"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.fault:
            terminalreporter.section("compatibility")
            terminalreporter.line(self.fault, red=True)


def check_row(row: object, where: str) -> None:
    """Raise if a test claims to prove a row that does not exist."""
    known = isinstance(row, str) and (row in ROWS or re.fullmatch(r"[ABDFIJMNOQTV]-\w+", row))
    if not known:
        raise pytest.UsageError(f"{where} is marked with the row {row!r}, which is not in tests/support/inventory.txt")


def page(rows: dict[str, set[str]]) -> str:
    """Return the page."""
    text = HEAD + f"{sum(bool(rows.get(row)) for row in ROWS)} of {len(ROWS)} rows are proven.\n"
    for letter, title in SECTIONS.items():
        text += f"\n## {title}\n\n| Row | What | State | Tests |\n|---|---|---|---|\n"
        for row, what in ROWS.items():
            if row.startswith(letter):
                what = what.replace("|", "\\|").replace("<", "&lt;")
                tests = rows.get(row, ())
                text += f"| {row} | {what} | {PROVEN if tests else UNPROVEN} | {_listed(tests)} |\n"
    return text


def _listed(tests: Iterable[str]) -> str:
    """Return the tests file by file."""
    files: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests):
        file, _, name = test.partition("::")
        files[file.removeprefix("tests/")].append(f"`{name}`")
    return "; ".join(f"{file}: {', '.join(names)}" for file, names in files.items())
