"""Checks that a plugin's part of the API document is valid OpenAPI.

`document.merge` finds names that exist already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llamafw.errors import SpecError
from llamafw.spec.operations import Document, operations
from llamafw.spec.schemas import with_string_keys
from llamafw.spec.validity import find_schema_fault

SECTIONS = ("paths", "components", "tags")
IGNORED = ("openapi", "info")  # allowed so that a fragment can be a complete document


def checked_fragment(fragment: Any) -> Document:
    """Return the sections of a plugin's part of the API document, after checking them.

    Parameters
    ----------
    fragment : object
        The value that the plugin's ``extend_openapi`` returned.

    Raises
    ------
    SpecError
        It is not a mapping, has other sections, or is not valid OpenAPI.
    """
    if not isinstance(fragment, Mapping):
        raise SpecError(f"extend_openapi must return a mapping, not {fragment!r:.80}")
    if unknown := [str(key) for key in fragment if key not in SECTIONS + IGNORED]:
        raise SpecError(f"its API document may have paths, components and tags, but not {', '.join(sorted(unknown))}")

    parts = {name: with_string_keys(fragment[name]) for name in SECTIONS if name in fragment}
    document = {"openapi": "3.0.3", "info": {"title": "x", "version": "1"}, "paths": {}, **parts}
    try:
        fault = find_schema_fault(document)
    except (ValueError, TypeError) as exc:  # a type that YAML has and JSON does not, such as a date
        raise SpecError(f"its API document cannot be written as JSON: {exc}") from None
    if fault is not None:
        raise SpecError(f"its API document is not valid at {fault.place}: {fault.message:.300}")

    for path, method, operation in operations(document):
        if not operation.get("operationId"):
            raise SpecError(f"{method.upper()} {path} has no operationId")
    return parts


def references(part: Any) -> Iterator[str]:
    """Yield the targets of all ``$ref`` within a part of a document, in the order of the document."""
    if isinstance(part, list):
        for item in part:
            yield from references(item)
    elif isinstance(part, Mapping):
        for key, value in part.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            elif key not in ("example", "examples", "default", "enum"):  # values, not schemas
                yield from references(value)
