"""Suites for things that are registered nowhere, and what they should find wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def suite(base: type[Any], thing: Any, **attributes: Any) -> Any:
    """Return the suite for ``thing``."""
    return type("Suite", (base,), {"name": "mine", "thing": classmethod(lambda cls: thing), **attributes})()


def broken(message: str, test: Callable[..., Any], *given: Any) -> None:
    """Fail unless a test fails, with a message that matches."""
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        test(*given)
