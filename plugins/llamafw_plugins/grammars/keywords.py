"""Lists the keywords of JSON Schema: those that contain schemas, are enforced, are annotations, or are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA_KEYWORDS = frozenset({"items", "additionalProperties", "propertyNames"})  # the value is a schema
SCHEMA_LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})  # a list of schemas
SCHEMA_MAP_KEYWORDS = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # names to schemas
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_OTHERS = frozenset({
    "type", "enum", "const", "required", "multipleOf", "pattern", "format", "$ref", "$anchor", "uniqueItems",
    "contentEncoding",
})  # fmt: skip
ENFORCED = SCHEMA_KEYWORDS | SCHEMA_LIST_KEYWORDS | SCHEMA_MAP_KEYWORDS | BOUNDS | COUNTS | _OTHERS
ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id",
    "discriminator",  # of OpenAPI; it only hints at the property in which the branches of oneOf differ
    "example", "externalDocs", "xml", "nullable",  # of OpenAPI; without null, a value is valid in either reading
    "markdownDescription", "enumDescriptions", "enumNames", "errorMessage", "deprecationMessage",  # of editors, forms
})  # fmt: skip
REFUSED = frozenset({
    "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "contains", "minContains", "maxContains",
    "unevaluatedItems", "unevaluatedProperties", "contentMediaType", "contentSchema", "$dynamicRef", "$dynamicAnchor",
    "$vocabulary", "$recursiveRef", "$recursiveAnchor", "dependencies", "x-guidance",
})  # fmt: skip
NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "uniqueItems": (False,), "unevaluatedProperties": (True, {}), "unevaluatedItems": (True, {}), "not": (False,),
    "dependentRequired": ({},), "dependentSchemas": ({},), "propertyNames": (True, {}, {"type": "string"}),
    "contentEncoding": ("binary", "8bit", "7bit"), "contentMediaType": ("application/octet-stream",),
}  # fmt: skip
"""Values with which a keyword restricts nothing. It is then ignored."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "minContains": ("contains",), "maxContains": ("contains",), "then": ("if",), "else": ("if",),
    "if": ("then", "else"), "contentSchema": ("contentMediaType",),
}  # fmt: skip
"""Keyword → others, without any of which it restricts nothing."""
