"""The page of clients and calls is made from the marks of the tests."""

from __future__ import annotations

import pytest

from support.client_calls import page, read_mark, without_versions


def test_page_has_a_row_for_each_client_and_call() -> None:
    tests = {("openai", "models.list"): {"tests/a.py::test_b", "tests/a.py::test_a"}, ("curl", "GET"): {"c"}}
    assert "| `models.list` | a.py: `test_a`, `test_b` |\n| curl |  | `GET` |" in page(tests)


def test_versions_do_not_make_the_page_out_of_date() -> None:
    old = "| OpenAI, Python | 3.1 | `models.list` | a |\n"
    assert without_versions(old) == without_versions(old.replace("3.1", "4.0"))
    assert without_versions(old) != without_versions(old.replace("models", "files"))


@pytest.mark.parametrize("arguments", [(), ("openai",), ("openai", 3)])
def test_marks_without_a_call_are_usage_errors(arguments: tuple[object, ...]) -> None:
    with pytest.raises(pytest.UsageError, match="needs the name of a client and its calls"):
        list(read_mark(arguments, "a test"))
