"""Checks that a schema is a JSON Schema: that each keyword has a value of the right kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from llamafw_plugins.grammars.keywords import BOUNDS, COUNTS, SCHEMA_KEYWORDS, SCHEMA_LIST_KEYWORDS, SCHEMA_MAP_KEYWORDS
from llamafw_plugins.grammars.schema_paths import SchemaError, SchemaPath, get_at

_METASCHEMA = "https://json-schema.org/draft/2020-12/schema"
_SCHEMA = "an object, true or false"
_TYPES = "'array', 'boolean', 'integer', 'null', 'number', 'object' or 'string'"
EXPECTED: Mapping[str, str] = {
    **dict.fromkeys(SCHEMA_KEYWORDS, _SCHEMA),
    **dict.fromkeys(SCHEMA_LIST_KEYWORDS, "an array of at least one schema"),
    **dict.fromkeys(SCHEMA_MAP_KEYWORDS, "an object with schemas as values"),
    **dict.fromkeys(BOUNDS, "a number"),
    **dict.fromkeys(COUNTS, "an integer of at least 0"),
    "type": f"{_TYPES}, or an array of several of them",
    "enum": "an array",
    "required": "an array of different strings",
    "multipleOf": "a number greater than 0",
    "pattern": "a string",
    "format": "a string",
    "uniqueItems": "true or false",
    "contentEncoding": "a string",
    "$ref": "a string",
    "$anchor": "a letter or underscore, followed by letters, digits, '-', '.' and '_'",
}
"""What the value of a keyword must be; ``const`` allows any value."""


def check_keyword_values(schema: Mapping[str, Any]) -> None:
    """Check the values of all keywords in a schema.

    Raises
    ------
    SchemaError
        The value of a keyword is of the wrong kind. The message names the keyword and says what its value must be.
    """
    try:
        jsonschema_rs.meta.validate({**schema, "$schema": _METASCHEMA})
    except jsonschema_rs.ValidationError as error:
        path = tuple(map(str, error.instance_path))
        raise SchemaError(_describe(error, schema, path), path) from None


def _describe(error: jsonschema_rs.ValidationError, schema: Mapping[str, Any], path: SchemaPath) -> str:
    kind: Any = error.kind
    if kind.name == "type" and set(kind.types) == {"boolean", "object"} and path[-1] not in SCHEMA_KEYWORDS:
        return f"a schema must be {_SCHEMA}, not {get_at(schema, path)!r:.80}"

    if path[-1] not in EXPECTED:  # an element of the keyword's array
        path = path[:-1]
    return f"{path[-1]!r} must be {EXPECTED[path[-1]]}, not {get_at(schema, path)!r:.80}"
