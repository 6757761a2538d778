"""Finds the subschemas of a JSON Schema by their paths, and reports errors with a path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamafw_plugins.grammars.keywords import SCHEMA_KEYWORDS, SCHEMA_LIST_KEYWORDS, SCHEMA_MAP_KEYWORDS

SchemaPath = tuple[str, ...]
"""Keywords, names and indices from the root to a part of a schema: ``("anyOf", "0", "properties", "a")``."""


class SchemaError(ValueError):
    """The schema is invalid or cannot be enforced.

    ``path`` leads to the part at fault.
    """

    def __init__(self, message: str, path: SchemaPath) -> None:
        super().__init__(message)
        self.path = path


def get_at(root: Any, path: SchemaPath) -> Any:
    """Return the part of ``root`` at ``path``; KeyError, IndexError, TypeError or ValueError if it does not exist."""
    for part in path:
        root = root[int(part)] if isinstance(root, list) else root[part]
    return root


def subschemas(root: Any) -> Iterator[tuple[SchemaPath, dict[str, Any]]]:
    """Yield the path and the value of each subschema that is an object, including ``root``."""
    stack: list[tuple[SchemaPath, Any]] = [((), root)]
    while stack:
        path, schema = stack.pop()
        if not isinstance(schema, dict):
            continue
        yield path, schema

        for keyword, value in schema.items():
            if keyword in SCHEMA_KEYWORDS:
                stack.append(((*path, keyword), value))
            elif keyword in SCHEMA_LIST_KEYWORDS:
                stack += [((*path, keyword, str(i)), item) for i, item in enumerate(value)]
            elif keyword in SCHEMA_MAP_KEYWORDS:
                stack += [((*path, keyword, name), item) for name, item in value.items()]
