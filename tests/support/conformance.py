"""Helpers that test the conformance suites with objects that no plugin registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def suite(base: type[Any], registered: Any, **attributes: Any) -> Any:
    """Return an instance of a suite that tests ``registered`` instead of what a plugin registers."""
    members = {"name": "mine", "registered": classmethod(lambda cls: registered), **attributes}
    return type("Suite", (base,), members)()


def assert_fails(test: Callable[..., Any], message: str, *args: Any) -> None:
    """Check that calling a test makes it fail with a message that matches ``message``."""
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        test(*args)
