"""The compatibility page states for each row whether it works, is refused, or has no test."""

from __future__ import annotations

import re

import pytest

from support.inventory import PAGE, REFUSED_ROWS, ROWS, check_row, page, refusal


def test_page_distinguishes_three_states() -> None:
    text = page({"C-001": {"tests/a.py::test_help"}, "C-043": {"tests/a.py::test_defrag"}})
    assert "| C-001 | -h, --help, --usage | works | a.py: `test_help` |" in text
    assert re.search(r"\| C-043 \| -dt, --defrag-thold N \| refused: not supported.* \| a.py: `test_defrag` \|", text)
    assert "| C-002 | --version | no test |  |" in text
    assert f"Of {len(ROWS)} rows 1 work, 1 are refused, and {len(ROWS) - 2} have no test." in text


def test_page_names_the_version_of_llama_server() -> None:
    assert "3a8a89ac4" in PAGE.read_text("utf-8")


def test_page_lists_flags_of_a_current_version() -> None:
    text = page({})
    assert "## Flags of llama-server 0.5.0-dev of October 2026 (llama.cpp 0c1e57098)" in text
    assert "| `--rpc` | not supported; write a backend plugin" in text
    assert "`--temperature`" not in text


def test_refused_rows_exist_and_have_reasons() -> None:
    assert set(REFUSED_ROWS) <= set(ROWS)
    assert {row for row in ROWS if refusal(row)} > set(REFUSED_ROWS)


def test_marks_with_unknown_rows_are_usage_errors() -> None:
    check_row("C-001", "a test")
    with pytest.raises(pytest.UsageError, match="'C-999'"):
        check_row("C-999", "a test")
