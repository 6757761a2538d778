"""The keywords of JSON Schema: which hold schemas, which are enforced, which are comments, which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = frozenset({"items", "additionalProperties"})  # a schema
SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})  # a list of them
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # names to schemas
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
VALUES = BOUNDS | COUNTS | {"type", "enum", "const", "required", "multipleOf", "pattern", "format", "$ref", "$anchor"}
ENFORCED = SCHEMA | SCHEMAS | MAPS | VALUES
COMMENTS = frozenset({
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id",
    "discriminator",  # OpenAPI's: a hint where the branches of oneOf differ
})  # fmt: skip
REFUSED = frozenset({
    "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "propertyNames", "contains", "minContains",
    "maxContains", "uniqueItems", "unevaluatedItems", "unevaluatedProperties", "contentEncoding", "contentMediaType",
    "contentSchema", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$recursiveRef", "$recursiveAnchor",
    "dependencies", "nullable", "x-guidance",
})  # fmt: skip
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "uniqueItems": (False,), "unevaluatedProperties": (True, {}), "unevaluatedItems": (True, {}),
    "dependentRequired": ({},), "dependentSchemas": ({},), "propertyNames": (True, {}), "nullable": (False,),
}  # fmt: skip
"""Values with which a keyword asks for nothing."""
