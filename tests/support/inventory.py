"""Writes docs/compatibility.md: which rows of llama-server's documentation work, and which tests show it.

A test names its rows with ``@pytest.mark.inventory("C-017", "E-017")``; see `marked_pages`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest

from llamafw.cli.plugin_flags import COMMAND_FLAGS
from llamafw.cli.refused import HARMLESS, REFUSED_FLAGS
from llamafw.settings import options
from support.marked_pages import ROOT, by_file

PAGE = ROOT / "docs/compatibility.md"
LLAMA_SERVER = "commit 3a8a89ac4 (October 2024)"
"""The version of llama-server whose documentation has the rows."""

ROWS = dict(line.split(" ", 1) for line in Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines() if line)
"""Row → what llama-server documents, in the order of the page."""

REFUSED_ROWS = {
    "E-040": "the models that run here read text only",
    "E-159": "the models that run here read text only",
}
"""Row → why the server refuses it, for rows without a flag. Refused flags have their reasons in the command line."""

TODAY = Path(__file__).with_name("llama_server_flags.txt")
"""The names of all flags of a current llama-server."""

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


def check_rows(rows: Iterable[object], test: str) -> list[str]:
    """Return the rows that a test names; see `check_row`."""
    return [check_row(row, test) for row in rows]


def check_row(row: object, test: str) -> str:
    """Return a row that a test names; raise UsageError if it does not exist."""
    if isinstance(row, str) and (row in ROWS or re.fullmatch(r"[ABDFIJMNOQTV]-\w+", row)):
        return row
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
                text += f"| {row} | {_escaped(promise)} | {_escaped(state)} | {by_file(tests.get(row, ()))} |\n"
    return text + flags_of_today()


def flags_of_today() -> str:
    """Return the section about the flags of a current llama-server."""
    first, *lines = TODAY.read_text("utf-8").splitlines()
    version, known = first.removeprefix("# ").partition(":")[0], {*COMMAND_FLAGS} - {*HARMLESS}
    known |= {flag for opt in options().values() for flag in (*opt.flags, *opt.off_flags)}
    rows = [[word for word in line.split() if word.startswith("-")] for line in lines]
    refused = [(row, next(REFUSED_FLAGS[flag] for flag in row if flag in REFUSED_FLAGS))
               for row in rows if not known & {*row} and REFUSED_FLAGS.keys() & {*row}]  # fmt: skip
    n_known = sum(bool(known & {*row}) for row in rows)

    text = f"\n## Flags of {version}\n\nOf {len(rows)} flags {n_known} have their meaning under all their names "
    text += f"([the command line](cli.md)), and {len(refused)} are refused"
    n_missing = len(rows) - n_known - len(refused)
    text += f"; {n_missing} are unknown.\n" if n_missing else ".\n"
    text += "Values that ask for nothing, such as `--spec-type none`, are accepted.\n\n| Flags | Refused |\n|---|---|\n"
    reasons = dict.fromkeys(reason for _, reason in refused)
    for reason in reasons:
        flags = ", ".join(f"`{flag}`" for row, why in refused if why == reason for flag in row)
        text += f"| {flags} | {_escaped(reason)} |\n"
    return text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
