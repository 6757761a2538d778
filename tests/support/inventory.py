"""Writes docs/compatibility.md: which rows of llama-server's documentation work, and which tests show it.

A test names its rows with ``@pytest.mark.inventory("C-017", "E-017")``. A run of the whole suite fails if the page is
out of date; ``--compatibility FILE`` writes it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest

from llamafw.cli.refused import REFUSED_FLAGS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/compatibility.md"
LLAMA_SERVER = "commit 3a8a89ac4 (October 2024)"
"""The version of llama-server whose documentation has the rows."""

ROWS = dict(line.split(" ", 1) for line in Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines() if line)
"""Row → what llama-server documents, in the order of the page."""

REFUSED_ROWS = {
    "E-040": "the models that run here read text only",
    "E-159": "the models that run here read text only",
    "E-221": REFUSED_FLAGS["--lora"],
    "K-11": REFUSED_FLAGS["--grp-attn-n"],
}
"""Row → why the server refuses it, for rows without a flag. Refused flags have their reasons in the command line."""

SECTIONS = {
    "C": "Command line",
    "P": "Process",
    "H": "HTTP",
    "E": "Endpoints and fields",
    "S": "Sampling",
    "K": "Slots and cache",
    "G": "Structured output",
    "R": "HTTP statuses",
}

HEAD = f"""\
# Compatibility with llama-server, row by row

Each row is a promise of llama-server's documentation at {LLAMA_SERVER}: a flag, an endpoint, a field, or a behaviour.

| State | Meaning |
|---|---|
| works | The tests in the last column check it. |
| refused | The server refuses it with a clear error. The reason is given; the tests check the refusal. |
| no test | No test checks it. |

`make compatibility` writes this page from the marks of the tests. A run of the whole suite fails if a test fails or if
the page is out of date.

"""


class Inventory:
    """Collects the rows that tests name, and compares the page with them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests: dict[str, set[str]] = defaultdict(set)  # row → tests, without their parameters
        self.complete = False  # the run covers the whole suite
        self.error = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("inventory"):
                for row in mark.args:
                    check_row(row, item.nodeid)
                    self.tests[row].add(item.nodeid.partition("[")[0])

    def pytest_collection_finish(self) -> None:
        arguments = [str(argument) for argument in self.config.args]
        is_whole = arguments in (self.config.getini("testpaths"), [str(ROOT / "tests")], [str(ROOT)])
        self.complete = is_whole and not self.config.option.keyword and not self.config.option.markexpr
        if self.complete and (target := self.config.getoption("--compatibility")):
            Path(target).write_text(page(self.tests), encoding="utf-8")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.complete and not session.testsfailed and page(self.tests) != PAGE.read_text("utf-8"):
            self.error = f"{PAGE.relative_to(ROOT)} is out of date: run `make compatibility`"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.error:
            terminalreporter.section("compatibility")
            terminalreporter.line(self.error, red=True)


def check_row(row: object, test: str) -> None:
    """Raise UsageError if a test names a row that does not exist."""
    exists = isinstance(row, str) and (row in ROWS or re.fullmatch(r"[ABDFIJMNOQTV]-\w+", row))
    if not exists:
        raise pytest.UsageError(f"{test} names the row {row!r}, which is not in tests/support/inventory.txt")


def refusal(row: str) -> str | None:
    """Return why the server refuses what a row documents; None if it does not."""
    flags = re.findall(r"(?<!\S)--?[a-z][\w-]*", ROWS[row]) if row.startswith("C") else []
    reasons = (REFUSED_FLAGS[flag] for flag in flags if flag in REFUSED_FLAGS)
    return REFUSED_ROWS.get(row) or next(reasons, None)


def page(tests: Mapping[str, Collection[str]]) -> str:
    """Return the page; ``tests`` maps rows to the tests that name them."""
    states = {row: "no test" if not tests.get(row) else "refused" if refusal(row) else "works" for row in ROWS}
    counts = Counter(states.values())
    text = HEAD + f"Of {len(ROWS)} rows {counts['works']} work, {counts['refused']} are refused, and "
    text += f"{counts['no test']} have no test.\n"
    for letter, title in SECTIONS.items():
        text += f"\n## {title}\n\n| Row | What | State | Tests |\n|---|---|---|---|\n"
        for row, promise in ROWS.items():
            if row.startswith(letter):
                state = f"refused: {refusal(row)}" if states[row] == "refused" else states[row]
                text += f"| {row} | {_escaped(promise)} | {_escaped(state)} | {_by_file(tests.get(row, ()))} |\n"
    return text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _by_file(tests: Iterable[str]) -> str:
    """Return the tests' names, grouped by file."""
    files: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests):
        file, _, name = test.partition("::")
        files[file.removeprefix("tests/")].append(f"`{name}`")
    return "; ".join(f"{file}: {', '.join(names)}" for file, names in files.items())
