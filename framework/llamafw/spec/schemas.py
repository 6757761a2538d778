"""Converts the schemas of OpenAPI 3.0 to JSON Schema, and the keys of YAML to strings, as in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

_ANNOTATIONS = {
    "example",
    "examples",
    "xml",
    "externalDocs",
    "discriminator",
    "default",
    "description",
    "title",
    "deprecated",
    "readOnly",
    "writeOnly",
}
"""Keywords that do not restrict values."""


def as_json_schema(schema: Any) -> Any:
    """Return an OpenAPI 3.0 schema as JSON Schema draft 4.

    They differ in ``nullable``; annotations are dropped.
    """
    if isinstance(schema, list):
        return [as_json_schema(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema

    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "schemas") and isinstance(value, Mapping):  # its keys are names, not keywords
            result[key] = {name: as_json_schema(part) for name, part in value.items()}
        elif key == "enum":
            result[key] = list(value)
        elif key not in _ANNOTATIONS and not key.startswith("x-"):
            result[key] = as_json_schema(value)
    if result.pop("nullable", False):
        return _or_null(result)
    return result


def validator(schema: Any, document: Mapping[str, Any]) -> jsonschema_rs.Draft4Validator:
    """Return a validator for a schema that may refer to components of an API document."""
    root = {"allOf": [as_json_schema(schema)], "components": as_json_schema(document.get("components", {}))}
    return jsonschema_rs.Draft4Validator(root)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def with_string_keys(value: Any) -> Any:
    """Return a value with all keys as strings, as JSON has them.

    YAML reads a status code such as 200 as a number.
    """
    if isinstance(value, Mapping):
        return {str(key): with_string_keys(part) for key, part in value.items()}
    if isinstance(value, list):
        return [with_string_keys(part) for part in value]
    return value
