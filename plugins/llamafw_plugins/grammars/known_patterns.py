"""Replaces patterns with look-around, of well-known libraries, with others that match the same strings, or fewer."""

from __future__ import annotations

import re

_PATTERNS = {
    # Zod's email addresses
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^(?:[A-Za-z0-9_'+-]+\.)*[A-Za-z0-9_'+-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
    # Zod's ISO 8601 durations
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$": (
        r"^P(?:\d+W|(?:\d+Y(?:\d+M)?(?:\d+D)?|\d+M(?:\d+D)?|\d+D)"
        r"(?:T(?:\d+H(?:\d+M)?(?:\d+S)?|\d+M(?:\d+S)?|\d+S))?|T(?:\d+H(?:\d+M)?(?:\d+S)?|\d+M(?:\d+S)?|\d+S))$"
    ),
    # Pydantic's decimal numbers
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(?:\d+\.?\d*|\.\d+)$",
}
_DECIMAL = re.compile(
    r"\^\(\?!\^\[-\+\.\]\*\$\)\[\+-\]\?0\*"  # ^(?!^[-+.]*$)[+-]?0*
    r"(?:\(\?:\\d\{0,(\d+)\}\|\(\?=\[\\d\.\]\{1,(\d+)\}0\*\$\)"  # (?:\d{0,4}|(?=[\d.]{1,7}0*$)
    r"\\d\{0,\d+\}\\\.\\d\{0,(\d+)\}0\*\$\))?"  # \d{0,4}\.\d{0,2}0*$)
)
"""Pydantic's decimal numbers with digits before and after the point, and the number of both."""


def known_pattern(pattern: str) -> str:
    """Return a pattern without look-around, if the pattern is known; otherwise the pattern itself."""
    if (match := _DECIMAL.fullmatch(pattern)) and match[1]:
        before, after = int(match[1]), int(match[3])
        fraction = f"(?:\\.\\d{{1,{after}}})?" if after else ""
        return f"^[+-]?\\d{{1,{before}}}{fraction}$"
    return _PATTERNS.get(pattern, pattern)
