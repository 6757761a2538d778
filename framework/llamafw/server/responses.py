"""Write JSON responses."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


class JSONResponse(Response):
    """A JSON response.

    Its content may contain dataclasses and numpy arrays; NaN becomes null.
    """

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        """Return ``content`` as JSON."""
        return to_json(content)


def to_json(content: Any) -> bytes:
    """Return ``content`` as JSON."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def to_json_line(content: Any) -> bytes:
    """Return ``content`` as JSON in which no character ends a line, not even for Unicode.

    Many clients read streams with functions that divide text at U+0085, U+2028 and U+2029 as well, such as Python's
    `str.splitlines`. JSON allows these characters; escaped, they mean the same.
    """
    line = to_json(content)
    for character in ("\x85", "\u2028", "\u2029"):
        line = line.replace(character.encode(), b"\\u%04x" % ord(character))
    return line
