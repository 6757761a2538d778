"""OpenAPI's schemas as JSON Schema, and what YAML has and JSON has not. It knows nothing of operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

_NO_CONSTRAINT = {
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


def as_json_schema(schema: Any) -> Any:
    """Return an OpenAPI 3.0 schema as JSON Schema draft 4, which is what it is apart from ``nullable``."""
    if isinstance(schema, list):
        return [as_json_schema(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "schemas") and isinstance(value, Mapping):  # names, not keywords
            result[key] = {name: as_json_schema(part) for name, part in value.items()}
        elif key == "enum":
            result[key] = list(value)
        elif key not in _NO_CONSTRAINT and not key.startswith("x-"):
            result[key] = as_json_schema(value)
    if result.pop("nullable", False):
        return _or_null(result)
    return result


def validator(schema: Any, document: Mapping[str, Any]) -> jsonschema_rs.Draft4Validator:
    """Return what holds values against a schema of an API document."""
    root = {"allOf": [as_json_schema(schema)], "components": as_json_schema(document.get("components", {}))}
    return jsonschema_rs.Draft4Validator(root)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def with_text_keys(thing: Any) -> Any:
    """YAML reads the status code 200 as a number; JSON has only text keys."""
    if isinstance(thing, Mapping):
        return {str(key): with_text_keys(part) for key, part in thing.items()}
    if isinstance(thing, list):
        return [with_text_keys(part) for part in thing]
    return thing
