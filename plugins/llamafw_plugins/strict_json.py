"""Parse JSON that every reader accepts: without NaN, Infinity, and numbers that float64 does not have."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any


def parse_strict(text: str) -> Any:
    """Return the JSON value in a text.

    Raises
    ------
    ValueError
        The text is not JSON, or some readers would refuse it.
    RecursionError
        It is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
