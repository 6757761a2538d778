"""docs/compatibility.md, made from the tests: which row of llama-server's inventory which test proves, and its state.

A test names its rows by ``@pytest.mark.inventory("C-017", "E-017")``. A run of the whole suite compares the page with
what it saw, and fails if they differ; ``--compatibility FILE`` writes it.
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
    "C": "Command line", "P": "Process", "H": "HTTP", "E": "Endpoints and fields",
    "S": "Sampling", "K": "Slots and cache", "G": "Structured output", "R": "Statuses",
}
NO_TEST, PASSES, SKIPPED, FAILS = "no test", "passes", "skipped", "fails"

HEAD = """\
# Compatibility with llama-server, row by row

Made from the tests by `make compatibility`; a run of the whole suite fails if it is not current. A row is a promise of
llama-server's documentation (flags, endpoints, fields, behaviour), as this server keeps it; the tests beside it prove
it.

"""


class Inventory:
    """Collects, during a run, which test proves which row, and how it went."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.rows: dict[str, dict[str, None]] = defaultdict(dict)  # row → tests, in order of appearance
        self.outcomes: dict[str, set[str]] = defaultdict(set)  # test → outcomes of its cases
        self.complete = False
        self.fault = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("inventory"):
                for row in mark.args:
                    check_row(row, item.nodeid)
                    self.rows[row][_test(item.nodeid)] = None

    def pytest_deselected(self) -> None:
        self.complete = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        asked = [str(arg) for arg in self.config.args]
        whole = asked in (self.config.getini("testpaths"), [str(ROOT / "tests")], [str(ROOT)])
        self.complete = whole and not self.config.option.keyword and not self.config.option.markexpr

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[_test(report.nodeid)].add(report.outcome)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.config.option.collectonly or session.testsfailed or not self.complete:
            return
        target = self.config.getoption("--compatibility")
        if target:
            Path(target).write_text(page(self.rows, self.outcomes), encoding="utf-8")
        elif not PAGE.is_file() or PAGE.read_text("utf-8") not in (
            page(self.rows, self.outcomes),
            page(self.rows, {test: seen - {"skipped"} or {"passed"} for test, seen in self.outcomes.items()}),
        ):  # what this machine cannot run says nothing against the page
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


def page(rows: dict[str, dict[str, None]], outcomes: dict[str, set[str]]) -> str:
    """Return the page."""
    states = {row: _state(rows.get(row, ()), outcomes) for row in ROWS}
    counts = {state: list(states.values()).count(state) for state in (PASSES, SKIPPED, FAILS, NO_TEST)}
    text = HEAD + "; ".join(f"{n} rows: {state}" for state, n in counts.items() if n) + ".\n"
    for letter, title in SECTIONS.items():
        text += f"\n## {title}\n\n| Row | What | State | Tests |\n|---|---|---|---|\n"
        for row, what in ROWS.items():
            if row.startswith(letter):
                what = what.replace("|", "\\|").replace("<", "&lt;")
                text += f"| {row} | {what} | {states[row]} | {_listed(rows.get(row, ()))} |\n"
    return text


def _state(tests: Iterable[str], outcomes: dict[str, set[str]]) -> str:
    seen = set().union(*(outcomes[test] for test in tests))
    return FAILS if "failed" in seen else PASSES if "passed" in seen else SKIPPED if seen else NO_TEST


def _listed(tests: Iterable[str]) -> str:
    """Return the tests file by file."""
    files: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests):
        file, _, name = test.partition("::")
        files[file.removeprefix("tests/")].append(f"`{name}`")
    return "; ".join(f"{file}: {', '.join(names)}" for file, names in files.items())


def _test(nodeid: str) -> str:
    """Return a test without its parameters."""
    return nodeid.partition("[")[0]
