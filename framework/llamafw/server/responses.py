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
