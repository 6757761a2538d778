"""Lists the keywords of JSON Schema: those that contain schemas, are enforced, are annotations, or are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA_KEYWORDS = frozenset({"items", "additionalProperties"})  # the value is a schema
SCHEMA_LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})  # a list of schemas
SCHEMA_MAP_KEYWORDS = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # names to schemas
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_OTHERS = frozenset({"type", "enum", "const", "required", "multipleOf", "pattern", "format", "$ref", "$anchor"})
ENFORCED = SCHEMA_KEYWORDS | SCHEMA_LIST_KEYWORDS | SCHEMA_MAP_KEYWORDS | BOUNDS | COUNTS | _OTHERS
ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id",
    "discriminator",  # of OpenAPI; it only hints at the property in which the branches of oneOf differ
})  # fmt: skip
REFUSED = frozenset({
    "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "propertyNames", "contains", "minContains",
    "maxContains", "uniqueItems", "unevaluatedItems", "unevaluatedProperties", "contentEncoding", "contentMediaType",
    "contentSchema", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$recursiveRef", "$recursiveAnchor",
    "dependencies", "nullable", "x-guidance",
})  # fmt: skip
NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "uniqueItems": (False,), "unevaluatedProperties": (True, {}), "unevaluatedItems": (True, {}),
    "dependentRequired": ({},), "dependentSchemas": ({},), "propertyNames": (True, {}), "nullable": (False,),
}  # fmt: skip
"""Values with which a refused keyword restricts nothing. It is then ignored."""
