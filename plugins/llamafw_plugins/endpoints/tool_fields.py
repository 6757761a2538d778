"""Fill in fields of tools that a chat template reads, though clients may leave them out.

The fields that a tool has keep their order, because models know the order of the JSON text that templates write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw_plugins.endpoints.response_json import JSON

SIMPLE_TYPES = ("string", "number", "integer", "boolean", "array", "object")
TYPES_OF_VALUES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
MAX_DEPTH = 8  # of choices within choices
CHOICES = ("anyOf", "oneOf", "allOf")


def complete_tools(tools: Sequence[Mapping[str, Any]], *, simple_types: bool = False) -> list[JSON]:
    """Return tools with every field that a template may read: description, parameters, their types and descriptions.

    Parameters
    ----------
    tools : sequence of mapping
        Tools in OpenAI's format.
    simple_types : bool
        Give every parameter exactly one type, without null, for templates that know no others.
    """
    return [{**tool, "function": _complete_function(tool["function"], simple_types)} for tool in tools]


def _complete_function(function: Mapping[str, Any], simple_types: bool) -> JSON:
    parameters: JSON = dict(function.get("parameters") or {})
    parameters["properties"] = {
        name: _complete_property(value, simple_types) if isinstance(value, dict) else value
        for name, value in (parameters.get("properties") or {}).items()
    }
    parameters = _with_missing(parameters, type="object", required=[])
    completed = _with_missing(function, description="", parameters={})
    return {**completed, "description": completed["description"] or "", "parameters": parameters}


def _complete_property(schema: JSON, simple_types: bool) -> JSON:
    if simple_types:
        schema = {**schema, "type": next(iter(_types_of(schema)), "string")}
    return _with_missing(schema, type="any", description="")


def _types_of(schema: Any, depth: int = 0) -> list[str]:
    """Return the types that a schema allows, as far as it says, without null."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return []
    given = schema.get("type")
    named = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    values = [*(schema.get("enum") or ()), *([schema["const"]] if "const" in schema else [])]
    found = [*named, *(TYPES_OF_VALUES.get(type(value), "") for value in values)]
    for name in CHOICES:
        found += [type for choice in schema.get(name) or () for type in _types_of(choice, depth + 1)]
    return [type for type in found if type in SIMPLE_TYPES]


def _with_missing(given: Mapping[str, Any], **defaults: Any) -> JSON:
    """Return fields, followed by those that are missing."""
    return {**given, **{name: value for name, value in defaults.items() if name not in given}}
