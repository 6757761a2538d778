"""Rewrites JSON Schemas so that llguidance enforces every part of them, and refuses those that it cannot enforce.

Keywords: https://json-schema.org/draft/2020-12. Each keyword is enforced, an annotation, or refused by name. Unknown
keywords are refused too, because most of them are misspelt. Tuples may be written as in older drafts.
"""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from typing import Any

from llamafw_plugins.grammars import one_of, references
from llamafw_plugins.grammars.closed_objects import close_objects
from llamafw_plugins.grammars.exhausted_patterns import apply_exhausted
from llamafw_plugins.grammars.expand import expand
from llamafw_plugins.grammars.formats import MAX_LENGTHS, NATIVE_FORMATS, PATTERN_FORMATS, UNRESTRICTED_FORMATS
from llamafw_plugins.grammars.keywords import (
    ANNOTATIONS,
    BOUNDS,
    COUNTS,
    ENFORCED,
    NEEDS,
    NO_EFFECT,
    REFUSED,
    SCHEMA_KEYWORDS,
    SCHEMA_LIST_KEYWORDS,
    SCHEMA_MAP_KEYWORDS,
)
from llamafw_plugins.grammars.known_patterns import known_pattern
from llamafw_plugins.grammars.metaschema import check_keyword_values
from llamafw_plugins.grammars.pattern import PatternError, to_rust
from llamafw_plugins.grammars.schema_paths import SchemaError, SchemaPath, get_at
from llamafw_plugins.grammars.unions import require_discriminators

MAX_DEPTH = 128  # length of a path within the schema
MAX_NUMBER = 2**53  # every reader agrees on integers up to here (RFC 7493 §2.2)
CONTROL_CHARACTERS = re.compile("[\0-\x07\x0b\x0e-\x1f\x7f]")  # those that JSON can only write as \u escapes
OPTIONS = {
    "whitespace_pattern": " ?",
    "json_allowed_escapes": 'nrbtf\\"',
    "json_allow_general_unicode_escapes": False,
}
r"""llguidance's options. White space is at most that of JSON in one line, because small models write it without end.
``\u`` escapes are off, because a property name written with them would evade the schema of that property."""


def options_of(schema: Any) -> dict[str, Any]:
    """Return the options for a schema: ``x-whitespace: free`` allows white space of up to 32 characters."""
    if isinstance(schema, dict) and schema.get("x-whitespace") == "free":
        return {**OPTIONS, "whitespace_pattern": r"[ \n\r\t]{0,32}"}
    return OPTIONS


def to_llguidance(schema: Any) -> Any:
    """Return the schema in the form that llguidance enforces in full; the argument is not changed.

    Raises
    ------
    SchemaError
        ``schema`` is not a valid JSON Schema, or a part of it cannot be enforced.
    """
    if not isinstance(schema, (dict, bool)):
        raise SchemaError("the schema is neither an object nor a boolean", ())
    schema = _normalize(require_discriminators(schema), ())
    if schema is False:
        raise SchemaError("the schema is false, so no value is valid", ())
    check_keyword_values(schema)
    references.check_references(schema)
    schema = expand(schema)
    references.check_references(schema)  # a target may have been rewritten
    return _translate(close_objects(schema), schema, ())


def _normalize(schema: Any, path: SchemaPath) -> Any:
    """Return the schema with enforced keywords only, and with tuples written as in draft 2020-12."""
    if len(path) > MAX_DEPTH:
        raise SchemaError(f"the schema is nested too deeply: a path in it has more than {MAX_DEPTH} parts", ())
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        return schema  # False, or a value that the metaschema will reject

    if schema.get("not") is True or schema.get("not") == {}:
        return False
    schema = _without_idle_keywords(schema)
    normalized: dict[str, Any] = {}
    has_old_tuple = isinstance(schema.get("items"), list)
    for keyword, value in schema.items():
        at = (*path, keyword)
        if _is_ignored(keyword, value, path):
            continue
        if has_old_tuple and keyword in ("items", "additionalItems"):
            if keyword == "items":
                normalized["prefixItems"] = [_normalize(item, (*at, str(i))) for i, item in enumerate(value)]
            else:
                normalized["items"] = _normalize(value, at)
        elif keyword in SCHEMA_KEYWORDS:
            normalized[keyword] = _normalize(value, at)
        elif keyword in SCHEMA_LIST_KEYWORDS and isinstance(value, list):
            normalized[keyword] = [_normalize(item, (*at, str(i))) for i, item in enumerate(value)]
        elif keyword in SCHEMA_MAP_KEYWORDS and isinstance(value, dict):
            normalized[keyword] = {name: _normalize(item, (*at, name)) for name, item in value.items()}
        elif keyword in ENFORCED:
            is_whole_float = keyword in COUNTS and isinstance(value, float) and value % 1 == 0
            normalized[keyword] = int(value) if is_whole_float else value
        else:
            raise SchemaError(_refusal(keyword), at)
    return normalized


def _without_idle_keywords(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without the keywords that restrict nothing because others are missing or have some value."""
    idle = {keyword for keyword, others in NEEDS.items() if keyword in schema and not schema.keys() & {*others}}
    if schema.get("minContains") == 0 and "maxContains" not in schema:
        idle |= {"contains", "minContains"}
    return {keyword: value for keyword, value in schema.items() if keyword not in idle}


def _is_ignored(keyword: str, value: Any, path: SchemaPath) -> bool:
    """Return whether the keyword restricts nothing.

    By convention, ``x-…`` keywords are annotations.
    """
    if keyword == "$id" and path:
        raise SchemaError("an '$id' below the root of the schema cannot be enforced", (*path, keyword))
    if keyword == "$schema" and not re.match(r"https?://json-schema\.org/", str(value)):
        message = f"the schema has an unsupported '$schema', {value!r:.80}: use a draft of json-schema.org"
        raise SchemaError(message, (*path, keyword))
    if any(type(value) is type(harmless) and value == harmless for harmless in NO_EFFECT.get(keyword, ())):
        return True
    return keyword in ANNOTATIONS or (keyword.startswith("x-") and keyword not in REFUSED)


def _refusal(keyword: str) -> str:
    if keyword in REFUSED:
        return f"the keyword {keyword!r} cannot be enforced"
    matches = get_close_matches(keyword, ENFORCED | ANNOTATIONS | REFUSED, n=1)
    return f"{keyword!r} is not a keyword of JSON Schema" + (f"; did you mean {matches[0]!r}?" if matches else "")


def _translate(schema: Any, root: Any, path: SchemaPath) -> Any:
    """Return a normalized schema with patterns, formats, bounds and ``oneOf`` in llguidance's form."""
    if not isinstance(schema, dict):
        return schema

    translated = dict(schema)
    for keyword, value in schema.items():
        at = (*path, keyword)
        if keyword in SCHEMA_KEYWORDS:
            translated[keyword] = _translate(value, root, at)
        elif keyword in SCHEMA_LIST_KEYWORDS:
            translated[keyword] = [_translate(item, root, (*at, str(i))) for i, item in enumerate(value)]
        elif keyword == "patternProperties":
            patterns = {name: f"^(?:{_translate_pattern(name, (*at, name), exact=True)})$" for name in value}
            translated[keyword] = {patterns[name]: _translate(item, root, (*at, name)) for name, item in value.items()}
        elif keyword in SCHEMA_MAP_KEYWORDS:
            if keyword == "properties" and any("\x7f" in name for name in value):
                raise SchemaError("a property name with the character U+007F cannot be enforced", at)
            translated[keyword] = {name: _translate(item, root, (*at, name)) for name, item in value.items()}
        elif keyword == "pattern":
            translated[keyword] = f"^(?:{_translate_pattern(known_pattern(value), at)})$"
        elif keyword in BOUNDS:
            translated[keyword] = _limit_bound(keyword, value, at)
        elif keyword in ("const", "enum"):
            _check_literal(value, at)
        elif keyword == "minProperties":
            _check_min_properties(schema, at)

    apply_exhausted(translated)
    _round_large_bounds(translated)
    _replace_exclusive_bounds(translated)
    if "format" in translated:
        _translate_format(translated, (*path, "format"))
    if "oneOf" in translated:
        at = (*path, "oneOf")
        one_of.check_branches(get_at(root, at), root, at)  # a value of a closed object may be valid in an open one
        translated["allOf"] = [*translated.get("allOf", ()), {"anyOf": translated.pop("oneOf")}]
    return translated


def _translate_pattern(pattern: str, path: SchemaPath, *, exact: bool = False) -> str:
    try:
        return to_rust(pattern, exact=exact)
    except PatternError as error:
        raise SchemaError(f"the pattern {pattern!r:.80} cannot be enforced: {error}", path) from None


def _translate_format(schema: dict[str, Any], path: SchemaPath) -> None:
    name = schema["format"]
    if name in UNRESTRICTED_FORMATS or ("pattern" in schema and name not in (*PATTERN_FORMATS, *NATIVE_FORMATS)):
        del schema["format"]
    elif name == "ipvanyaddress":
        del schema["format"]
        schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}]
    elif name in PATTERN_FORMATS:
        del schema["format"]
        schema["allOf"] = [*schema.get("allOf", ()), {"pattern": f"^(?:{to_rust(PATTERN_FORMATS[name])})$"}]
    elif name not in NATIVE_FORMATS:
        supported = ", ".join(sorted([*PATTERN_FORMATS, *NATIVE_FORMATS]))
        raise SchemaError(f"the format {name!r:.80} cannot be enforced; supported formats are {supported}", path)
    elif name in MAX_LENGTHS:
        schema["maxLength"] = min(MAX_LENGTHS[name], schema.get("maxLength", MAX_LENGTHS[name]))


def _limit_bound(keyword: str, value: float, path: SchemaPath) -> float:
    """Return the bound, limited to ±2⁵³; SchemaError if it only allows numbers beyond them."""
    excludes_zero = (value > 0) is ("inimum" in keyword)
    if abs(value) < MAX_NUMBER or (
        abs(value) == MAX_NUMBER and not (excludes_zero and keyword.startswith("exclusive"))
    ):
        return value
    if excludes_zero:
        raise SchemaError(f"{keyword!r} beyond ±2⁵³ cannot be enforced", path)
    return math.copysign(MAX_NUMBER, value)


def _round_large_bounds(schema: dict[str, Any]) -> None:
    """Round fractional bounds from 2⁴⁰ on to the next integer inwards: llguidance 1.9 keeps some 15 of their digits."""
    for keyword in BOUNDS & schema.keys():
        value = schema[keyword]
        if abs(value) >= 2**40 and value % 1:
            bound, inwards, tighter = (
                ("minimum", math.ceil, max) if "inimum" in keyword else ("maximum", math.floor, min)
            )
            del schema[keyword]
            schema[bound] = tighter(schema.get(bound, inwards(value)), inwards(value))


def _replace_exclusive_bounds(schema: dict[str, Any]) -> None:
    """Replace an integral exclusive bound on the side of zero by an inclusive bound just beside it.

    llguidance 1.9 wrongly allows 0 under ``{"exclusiveMinimum": 0, "maximum": 0.5}``, also if the two bounds come from
    different parts of ``allOf``.
    """
    for exclusive, bound, inwards, tighter in (
        ("exclusiveMinimum", "minimum", 1, max),
        ("exclusiveMaximum", "maximum", -1, min),
    ):
        value = schema.get(exclusive)
        if value is not None and value % 1 == 0 and (value * inwards >= 0 or abs(value) >= 2**40):
            beside = value + inwards * (1e-9 if abs(value) < 2**20 else 1e-3 if abs(value) < 2**40 else 1)
            schema[bound] = tighter(schema.get(bound, beside), beside)
            del schema[exclusive]


def _check_literal(value: Any, path: SchemaPath) -> None:
    """Raise SchemaError if a value of ``enum`` or ``const`` cannot be written exactly."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list):
            stack += [*item, *item.values()] if isinstance(item, dict) else item
        elif isinstance(item, str) and CONTROL_CHARACTERS.search(item):
            raise SchemaError("a string with a control character cannot be enforced", path)
        elif isinstance(item, int | float) and not -MAX_NUMBER <= item <= MAX_NUMBER:
            raise SchemaError("a number beyond ±2⁵³ cannot be enforced", path)


def _check_min_properties(schema: dict[str, Any], path: SchemaPath) -> None:
    """Raise SchemaError if distinct names would have to be counted: llguidance counts a repeated name twice."""
    limit = max(1, len(schema.get("required", ())))
    if schema["minProperties"] > limit:
        message = f"'minProperties' above {limit} cannot be enforced: list the names in 'required' instead"
        raise SchemaError(message, path)
