"""JSON Schema for llguidance, which refuses most of what it cannot enforce; the rest is refused here.

Keywords: https://json-schema.org/draft/2020-12. What neither is enforced nor only comments must not pass unseen.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 128
REFUSED = (
    "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "propertyNames", "contains", "minContains",
    "maxContains", "uniqueItems", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor",
    "$vocabulary", "$recursiveRef", "$recursiveAnchor", "dependencies", "contentSchema", "x-guidance",
)  # fmt: skip
HARMLESS: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,), "unevaluatedProperties": (True, {}), "unevaluatedItems": (True, {}),
}  # fmt: skip
MAPS = ("properties", "patternProperties", "$defs", "definitions")  # of names to schemas
VALUES = ("enum", "const", "default", "examples", "required")  # hold no schemas
OPTIONS = {"whitespace_pattern": r"[ \n\r\t]{0,32}"}
"""White space without end is what small models like to write; 32 is enough to indent."""


class SchemaError(ValueError):
    """The schema cannot be enforced. ``place`` is the path of what is at fault, within the schema."""

    def __init__(self, message: str, place: tuple[str, ...]) -> None:
        super().__init__(message)
        self.place = place


def checked(schema: Any) -> Any:
    """Return the schema without keywords that ask for nothing; it is changed in place.

    Raises
    ------
    SchemaError
        Something in it cannot be enforced, though llguidance might not say so.
    """
    if not isinstance(schema, (dict, bool)):
        raise SchemaError("a JSON Schema is an object or a boolean", ())
    if isinstance(schema, bool):
        if not schema:
            raise SchemaError("nothing is valid against the schema false", ())
        return {}
    for place, part in _subschemas(schema, ()):
        if len(place) > MAX_DEPTH:
            raise SchemaError("the schema is nested too deeply", ())
        for keyword, value in list(part.items()):
            if any(type(value) is type(one) and value == one for one in HARMLESS.get(keyword, ())):
                del part[keyword]
            elif fault := _fault(keyword, value, part):
                raise SchemaError(fault, (*place, keyword))
    return schema


def _fault(keyword: str, value: Any, part: dict[str, Any]) -> str | None:
    if keyword in REFUSED:
        return f"the keyword {keyword!r} cannot be enforced"
    if keyword in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
        return f"{keyword!r} is a number"
    if keyword == "$ref" and not (isinstance(value, str) and value.startswith("#")):
        return "only references within the schema are followed"
    if keyword == "minProperties" and value not in (0, 1, len(part.get("required") or ())):
        return "'minProperties' cannot be enforced: the same name may come twice"
    return None


def place_of(schema: Any, keyword: str) -> tuple[str, ...]:
    """Return the path of the first use of ``keyword``; () if there is none."""
    return next(((*place, keyword) for place, part in _subschemas(schema, ()) if keyword in part), ())


def _subschemas(schema: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield the path of every object that is a schema, and the object."""
    left = [(place, schema)]
    while left:
        place, part = left.pop()
        if isinstance(part, list):
            left += [((*place, str(i)), item) for i, item in reversed(list(enumerate(part)))]
        if not isinstance(part, dict):
            continue
        yield place, part
        for keyword, value in reversed(part.items()):
            if keyword in MAPS and isinstance(value, dict):
                left += [((*place, keyword, name), item) for name, item in reversed(value.items())]
            elif keyword not in VALUES:
                left.append(((*place, keyword), value))
