"""Replaces keywords that llguidance does not know with others that have the same meaning.

These are ``propertyNames``, ``uniqueItems``, ``contentEncoding`` and formats that bound a number. `keywords` lists what
is ignored or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from math import comb, perm
from typing import Any

import orjson

from llamafw_plugins.grammars.formats import INTEGER_FORMATS, PATTERN_FORMATS
from llamafw_plugins.grammars.keywords import SCHEMA_KEYWORDS, SCHEMA_LIST_KEYWORDS, SCHEMA_MAP_KEYWORDS
from llamafw_plugins.grammars.references import find_anchors, target_path
from llamafw_plugins.grammars.schema_paths import SchemaError, SchemaPath, get_at

MAX_ARRAYS = 2000  # different arrays that a schema with ``uniqueItems`` may allow
_ARRAY_KEYWORDS = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")
_NAME_KEYWORDS = {"type", "enum", "const", "pattern", "format", "minLength", "maxLength"}


def expand(root: Any) -> Any:
    """Return a normalized schema without the keywords above; SchemaError if one of them cannot be enforced."""
    return _Expansion(root).expand(root, ())


class _Expansion:
    """Rewrites one schema."""

    def __init__(self, root: Any) -> None:
        self.root, self.anchors = root, find_anchors(root)

    def expand(self, schema: Any, path: SchemaPath) -> Any:
        """Return the schema at ``path``, rewritten."""
        if not isinstance(schema, dict):
            return schema

        expanded = dict(schema)
        for keyword, value in schema.items():
            at = (*path, keyword)
            if keyword == "propertyNames":
                continue
            if keyword in SCHEMA_KEYWORDS:
                expanded[keyword] = self.expand(value, at)
            elif keyword in SCHEMA_LIST_KEYWORDS:
                expanded[keyword] = [self.expand(item, (*at, str(i))) for i, item in enumerate(value)]
            elif keyword in SCHEMA_MAP_KEYWORDS:
                expanded[keyword] = {name: self.expand(item, (*at, name)) for name, item in value.items()}

        if "propertyNames" in expanded:
            self._restrict_names(expanded, (*path, "propertyNames"))
        if expanded.get("uniqueItems"):
            return self._list_arrays(expanded, path)
        if "contentEncoding" in expanded:
            encoding = expanded.pop("contentEncoding")
            expanded["allOf"] = [*expanded.get("allOf", ()), {"format": encoding}]
        if expanded.get("format") in INTEGER_FORMATS:
            low, high = INTEGER_FORMATS[expanded.pop("format")]
            expanded["allOf"] = [*expanded.get("allOf", ()), {"minimum": low, "maximum": high}]
        return expanded

    def resolve(self, schema: Any) -> Any:
        """Return what a schema that only refers to another one refers to."""
        for _ in range(100):
            if not isinstance(schema, dict) or set(schema) != {"$ref"}:
                break
            schema = get_at(self.root, target_path(schema["$ref"], self.anchors))
        return schema

    def _restrict_names(self, schema: dict[str, Any], path: SchemaPath) -> None:
        """Replace ``propertyNames`` by ``properties`` or ``patternProperties``."""
        names = self.resolve(schema.pop("propertyNames"))
        if names in ({}, {"type": "string"}):
            return
        others = schema.get("additionalProperties", {})
        listed = names.get("enum", [names["const"]] if "const" in names else None) if isinstance(names, dict) else None
        if not isinstance(names, dict) or set(names) - _NAME_KEYWORDS or "patternProperties" in schema:
            raise SchemaError("'propertyNames' can be enforced with values or one pattern only", path)
        if listed is not None:
            if set(names) - {"type", "enum", "const"}:
                raise SchemaError("'propertyNames' with values cannot have other keywords", path)
            known = schema.get("properties", {})
            schema["properties"] = {name: known.get(name, others) for name in listed if isinstance(name, str)}
            schema["additionalProperties"] = False
            return

        if "properties" in schema:
            raise SchemaError("'propertyNames' beside 'properties' can be enforced with values only", path)
        schema["patternProperties"] = {_name_pattern(names, path): others}
        schema["additionalProperties"] = False

    def _list_arrays(self, schema: dict[str, Any], path: SchemaPath) -> Any:
        """Replace an array of different items by the arrays that are allowed.

        They have their items in every order, or in the order of the schema if there would be too many.
        """
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if high is not None and high <= 1:
            return {key: value for key, value in schema.items() if key != "uniqueItems"}

        values = None if "prefixItems" in schema else self._values(schema.get("items", {}))
        types = schema.get("type", ())
        types = [types] if isinstance(types, str) else list(types)
        if values is None or "array" not in types:
            message = "'uniqueItems' can be enforced for arrays of values in an 'enum' only"
            raise SchemaError(message, (*path, "uniqueItems"))

        sizes = range(low, min(len(values), len(values) if high is None else high) + 1)
        if sum(perm(len(values), n) for n in sizes) <= MAX_ARRAYS:
            arrays = [list(array) for n in sizes for array in permutations(values, n)]
        elif sum(comb(len(values), n) for n in sizes) <= MAX_ARRAYS:
            arrays = [list(array) for n in sizes for array in combinations(values, n)]
        else:
            message = f"'uniqueItems' with {len(values)} values cannot be enforced: more than {MAX_ARRAYS} arrays"
            raise SchemaError(message, (*path, "uniqueItems"))
        if not arrays:
            raise SchemaError("'uniqueItems' and 'minItems' together allow no array", (*path, "minItems"))

        rest = {key: value for key, value in schema.items() if key not in (*_ARRAY_KEYWORDS, "type")}
        others = [name for name in types if name != "array"]
        listed = {"enum": arrays}
        if others and "anyOf" not in rest:
            return {**rest, "anyOf": [listed, {"type": others}]}
        return {"allOf": [listed, rest]} if rest else listed

    def _values(self, schema: Any, depth: int = 0) -> list[Any] | None:
        """Return all values that a schema allows, without repetitions; None if there may be others."""
        schema = self.resolve(schema)
        if not isinstance(schema, dict) or depth > 10:
            return None
        found = _listed_values(schema)
        for keyword in ("anyOf", "oneOf"):
            if found is None and set(schema) == {keyword}:
                parts = [self._values(part, depth + 1) for part in schema[keyword]]
                found = None if any(part is None for part in parts) else [item for part in parts for item in part or ()]
        if found is None:
            return None
        return list({orjson.dumps(item, option=orjson.OPT_SORT_KEYS): item for item in found}.values())


def _listed_values(schema: Mapping[str, Any]) -> list[Any] | None:
    """Return the values of ``enum``, ``const`` or a type with few values."""
    types = schema.get("type", ())
    types = {types} if isinstance(types, str) else set(types)
    if set(schema) - {"type", "enum", "const"}:
        return None
    if "const" in schema or "enum" in schema:
        values: Sequence[Any] = [schema["const"]] if "const" in schema else schema["enum"]
        return [value for value in values if not types or _has_type(value, types)]
    if types and types <= {"boolean", "null"}:
        return [value for value in (False, True, None) if _has_type(value, types)]
    return None


def _has_type(value: Any, types: set[str]) -> bool:
    if isinstance(value, bool) or value is None:
        return ("boolean" if value is not None else "null") in types
    if isinstance(value, int | float):
        return "number" in types or ("integer" in types and value % 1 == 0)
    return ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object") in types


def _name_pattern(names: Mapping[str, Any], path: SchemaPath) -> str:
    """Return the pattern of property names."""
    given = [keyword for keyword in ("pattern", "format") if keyword in names]
    low, high = names.get("minLength", 0), names.get("maxLength", "")
    if len(given) + (low != 0 or high != "") > 1 or names.get("type", "string") != "string":
        raise SchemaError("'propertyNames' can be enforced with values or one pattern only", path)
    if "pattern" in names:
        return str(names["pattern"])
    if "format" not in names:
        return f"^[\\s\\S]{{{low},{high}}}$"
    if names["format"] not in PATTERN_FORMATS:
        raise SchemaError(f"the format {names['format']!r:.80} of property names cannot be enforced", (*path, "format"))
    return str(PATTERN_FORMATS[names["format"]])
