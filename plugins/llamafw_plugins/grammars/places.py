"""Places within JSON Schemas, and the error that names one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamafw_plugins.grammars.keywords import MAPS, SCHEMA, SCHEMAS

Place = tuple[str, ...]
"""Keywords, names and indices, from the root."""


class SchemaError(ValueError):
    """The schema cannot be enforced. ``place`` is what is at fault."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.place = place


def follow(root: Any, place: Place) -> Any:
    """Return what is at a place."""
    for part in place:
        root = root[int(part)] if isinstance(root, list) else root[part]
    return root


def subschemas(root: Any) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the place of every object that is a schema, and the object."""
    left: list[tuple[Place, Any]] = [((), root)]
    while left:
        place, part = left.pop()
        if not isinstance(part, dict):
            continue
        yield place, part
        for keyword, value in part.items():
            if keyword in SCHEMA:
                left.append(((*place, keyword), value))
            elif keyword in SCHEMAS:
                left += [((*place, keyword, str(i)), one) for i, one in enumerate(value)]
            elif keyword in MAPS:
                left += [((*place, keyword, name), one) for name, one in value.items()]
