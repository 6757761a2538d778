"""JSON Schema, rewritten into what llguidance enforces in full; the rest is refused. It knows nothing of grammars.

Keywords: https://json-schema.org/draft/2020-12. Each is enforced, a comment, or refused by name; one that does not
exist is refused, too, since it is mostly a misspelt one. Tuples are read as older drafts write them.
"""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from typing import Any

import jsonschema_rs

from llamafw_plugins.grammars import references
from llamafw_plugins.grammars.formats import FORMATS, NATIVE
from llamafw_plugins.grammars.keywords import (
    BOUNDS,
    COMMENTS,
    COUNTS,
    ENFORCED,
    HARMLESS,
    MAPS,
    REFUSED,
    SCHEMA,
    SCHEMAS,
)
from llamafw_plugins.grammars.pattern import PatternError, to_rust
from llamafw_plugins.grammars.places import Place, SchemaError

MAX_DEPTH = 128
LARGEST = 2**53  # whole numbers up to here are the same to every reader (RFC 7493 §2.2)
UNWRITABLE = re.compile("[\0-\x07\x0b\x0e-\x1f\x7f]")  # characters that only \u escapes write
OPTIONS = {
    "whitespace_pattern": r"[ \n\r\t]{0,32}",
    "json_allowed_escapes": 'nrbtf\\"',
    "json_allow_general_unicode_escapes": False,
}
r"""White space without end is what small models like to write; 32 is enough to indent. With ``\u`` escapes a name that
has a schema could be written in another way, and so escape it."""


def normalised(schema: Any) -> Any:
    """Return the schema as llguidance enforces it in full. What is given is not changed.

    Raises
    ------
    SchemaError
        It is no JSON Schema, or something in it cannot be enforced.
    """
    if not isinstance(schema, (dict, bool)):
        raise SchemaError("a JSON Schema is an object or a boolean", ())
    if schema is False:
        raise SchemaError("nothing is valid against the schema false", ())
    schema = _read(schema, ())
    try:
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})
    except jsonschema_rs.ValidationError as error:
        raise SchemaError(error.message, tuple(map(str, error.instance_path))) from None
    references.check(schema)
    return _finished(schema, schema, ())


def _read(schema: Any, place: Place) -> Any:
    """Return a schema of known keywords only, with tuples as draft 2020-12 has them."""
    if len(place) > MAX_DEPTH:
        raise SchemaError("the schema is nested too deeply", ())
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        return schema  # false, or what the metaschema refuses
    found: dict[str, Any] = {}
    tuples = isinstance(schema.get("items"), list)
    for keyword, value in schema.items():
        at = (*place, keyword)
        if _is_comment(keyword, value, place):
            continue
        if tuples and keyword in ("items", "additionalItems"):
            if keyword == "items":
                found["prefixItems"] = [_read(one, (*at, str(i))) for i, one in enumerate(value)]
            else:
                found["items"] = _read(value, at)
        elif keyword in SCHEMA:
            found[keyword] = _read(value, at)
        elif keyword in SCHEMAS and isinstance(value, list):
            found[keyword] = [_read(one, (*at, str(i))) for i, one in enumerate(value)]
        elif keyword in MAPS and isinstance(value, dict):
            found[keyword] = {name: _read(one, (*at, name)) for name, one in value.items()}
        elif keyword in ENFORCED:
            found[keyword] = int(value) if keyword in COUNTS and isinstance(value, float) and value % 1 == 0 else value
        else:
            raise SchemaError(_unknown(keyword), at)
    return found


def _is_comment(keyword: str, value: Any, place: Place) -> bool:
    """Whether the keyword asks for nothing. A name that begins with ``x-`` is a comment by custom."""
    if keyword == "$id" and place:
        raise SchemaError("an $id within the schema cannot be enforced", (*place, keyword))
    if keyword == "$schema" and not re.match(r"https?://json-schema\.org/", str(value)):
        raise SchemaError("only the drafts of json-schema.org are known", (*place, keyword))
    if any(type(value) is type(one) and value == one for one in HARMLESS.get(keyword, ())):
        return True
    return keyword in COMMENTS or (keyword.startswith("x-") and keyword not in REFUSED)


def _unknown(keyword: str) -> str:
    if keyword in REFUSED:
        return f"the keyword {keyword!r} cannot be enforced"
    near = get_close_matches(keyword, ENFORCED | COMMENTS | REFUSED, n=1)
    return f"{keyword!r} is no keyword of JSON Schema" + (f"; did you mean {near[0]!r}?" if near else "")


def _finished(schema: Any, root: Any, place: Place) -> Any:
    """Return a valid schema with patterns, formats, numbers and oneOf as llguidance has them."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for keyword, value in schema.items():
        at = (*place, keyword)
        if keyword in SCHEMA:
            found[keyword] = _finished(value, root, at)
        elif keyword in SCHEMAS:
            found[keyword] = [_finished(one, root, (*at, str(i))) for i, one in enumerate(value)]
        elif keyword == "patternProperties":
            names = {name: f"^(?:{_rust(name, (*at, name), exact=True)})$" for name in value}
            found[keyword] = {names[name]: _finished(one, root, (*at, name)) for name, one in value.items()}
        elif keyword in MAPS:
            if keyword == "properties" and any("\x7f" in name for name in value):
                raise SchemaError("a name with the character U+007F cannot be enforced", at)
            found[keyword] = {name: _finished(one, root, (*at, name)) for name, one in value.items()}
        elif keyword == "pattern":
            found[keyword] = f"^(?:{_rust(value, at)})$"
        elif keyword in BOUNDS:
            found[keyword] = _bound(keyword, value, at)
        elif keyword in ("const", "enum"):
            _check_value(value, at)
        elif keyword == "minProperties" and value > max(1, len(schema.get("required", ()))):
            raise SchemaError("more 'minProperties' than 'required' cannot be enforced: a name may come twice", at)
    _set_bounds(found)
    if "format" in found:
        _set_format(found, (*place, "format"))
    if "oneOf" in found:
        references.check_one_of(schema["oneOf"], root, (*place, "oneOf"))
        found["allOf"] = [*found.get("allOf", ()), {"anyOf": found.pop("oneOf")}]
    return found


def _rust(pattern: str, place: Place, *, exact: bool = False) -> str:
    try:
        return to_rust(pattern, exact=exact)
    except PatternError as error:
        raise SchemaError(f"the pattern is wrong: {error}", place) from None


def _set_format(schema: dict[str, Any], place: Place) -> None:
    name = schema["format"]
    if name in FORMATS:
        del schema["format"]
        schema["allOf"] = [*schema.get("allOf", ()), {"pattern": f"^(?:{to_rust(FORMATS[name])})$"}]
    elif name not in NATIVE:
        known = ", ".join(sorted([*FORMATS, *NATIVE]))
        raise SchemaError(f"the format {name!r} cannot be enforced; there are {known}", place)


def _bound(keyword: str, value: float, place: Place) -> float:
    """Return a bound of numbers that all readers agree on; one beyond them becomes the last of them."""
    inwards = (value > 0) is ("inimum" in keyword)
    if abs(value) < LARGEST or (abs(value) == LARGEST and not (inwards and keyword.startswith("exclusive"))):
        return value
    if inwards:
        raise SchemaError(f"{keyword!r} beyond ±2⁵³ cannot be enforced", place)
    return math.copysign(LARGEST, value)


def _set_bounds(schema: dict[str, Any]) -> None:
    """Write a whole exclusive bound that is the end nearer to zero as an inclusive one just beside it.

    llguidance 1.9 allows 0 under ``{"exclusiveMinimum": 0, "maximum": 0.5}``; also where the two come from different
    parts of allOf.
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


def _check_value(value: Any, place: Place) -> None:
    """Raise SchemaError if the value of an enum or const cannot be written exactly."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            left += [*one, *one.values()] if isinstance(one, dict) else one
        elif isinstance(one, str) and UNWRITABLE.search(one):
            raise SchemaError("a control character cannot be enforced", place)
        elif isinstance(one, int | float) and not -LARGEST <= one <= LARGEST:
            raise SchemaError("a number beyond ±2⁵³ cannot be enforced", place)
