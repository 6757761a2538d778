"""Say what is wrong with an invalid value, in words a person understands, naming the field.

A validator that lists every error of a megabyte of wrong tokens takes half a minute; this looks for one, the most
telling, and takes milliseconds. It is asked only about values that are known to be invalid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from llamafw.errors import RequestError, did_you_mean
from llamafw.server.schema import Schema, Schemas

_LOOKS_INSIDE = {"properties", "items", "additionalProperties", "allOf", "anyOf", "oneOf", "not", "$ref", "components"}
_ARTICLES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_MOST_STEPS = 1000
_MOST_DEPTH = 100  # of values within values
_VAGUE = "is not valid"

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the value at ``path``: ``"must be …"``."""

    path: Path
    keyword: str
    text: str
    detail: tuple[Any, ...] = ()  # the types or values that would have been right

    @property
    def param(self) -> str | None:
        """The path with dots, or None for the whole body."""
        return ".".join(map(str, self.path)) or None

    @property
    def message(self) -> str:
        """One sentence for the client."""
        return f"{self.param or 'the request body'} {self.text}"


def find_fault(schema: Schema, value: Any, schemas: Schemas) -> Fault:
    """Return what is wrong with ``value``, which the converted ``schema`` does not allow."""
    return _Search(schemas).find(schema, value, ()) or Fault((), "", _VAGUE)


def refusal(message: str, param: str | None, plugin: str | None) -> RequestError:
    """Return the error for an invalid value; ``plugin`` is the one whose option it is, if it is one's."""
    if plugin is None:
        return RequestError(message, param=param)
    return RequestError(f"{message} (plugin {plugin})", param=param, extra={"plugin": plugin})


class _Search:
    """One search for a fault. It gives up, vaguely, before alternatives within alternatives get too many."""

    def __init__(self, schemas: Schemas) -> None:
        self.schemas = schemas
        self.left = _MOST_STEPS

    def find(self, schema: Schema, value: Any, path: Path) -> Fault | None:
        """Return what is wrong with ``value``; None if nothing is."""
        schema = self.schemas.resolve(schema)
        if self.schemas.validator(schema).is_valid(value):
            return None
        self.left -= 1
        if self.left < 0 or len(path) > _MOST_DEPTH:
            return Fault(path, "", _VAGUE)
        return (
            _own_fault(schema, value, path)
            or self.inside(schema, value, path)
            or self.of_parts(schema, value, path)
            or Fault(path, "not", "is not allowed")
        )

    def inside(self, schema: Schema, value: Any, path: Path) -> Fault | None:
        """Check the members of an object and the elements of an array."""
        if isinstance(value, dict):
            properties = schema.get("properties", {})
            others = schema.get("additionalProperties")
            for name, part in value.items():
                inner = properties.get(name, others)
                if isinstance(inner, Mapping) and (fault := self.find(inner, part, (*path, name))):
                    return fault
        elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
            is_valid = self.schemas.validator(schema["items"]).is_valid
            wrong = next((index for index, part in enumerate(value) if not is_valid(part)), None)
            if wrong is not None:
                return self.find(schema["items"], value[wrong], (*path, wrong))
        return None

    def of_parts(self, schema: Schema, value: Any, path: Path) -> Fault | None:
        """Check ``allOf``, and of ``anyOf`` and ``oneOf`` the branch that was probably meant."""
        for part in schema.get("allOf", ()):
            if fault := self.find(part, value, path):
                return fault
        for keyword in ("anyOf", "oneOf"):
            branches = schema.get(keyword, ())
            faults = [
                fault
                for branch in branches
                if (fault := _wrong_kind(self.schemas.resolve(branch), value, path) or self.find(branch, value, path))
            ]
            if branches and len(faults) == len(branches):
                return _likeliest(faults, path)
            if keyword == "oneOf" and len(branches) - len(faults) > 1:
                return Fault(path, keyword, "can be read in more than one way")
        return None


def _own_fault(schema: Schema, value: Any, path: Path) -> Fault | None:
    """Check the keywords that concern the value itself and nothing within it."""
    plain = {key: part for key, part in schema.items() if key not in _LOOKS_INSIDE}
    if schema.get("additionalProperties") is False:
        plain |= {"additionalProperties": False, "properties": dict.fromkeys(schema.get("properties", ()), {})}
    error = next(iter(jsonschema_rs.Draft4Validator(plain, validate_formats=True).iter_errors(value)), None)
    return None if error is None else _phrase(error, value, path)


def _wrong_kind(branch: Schema, value: Any, path: Path) -> Fault | None:
    """Return the fault of an object whose tag, a property with one possible value, is another branch's."""
    if isinstance(value, dict):
        for name, part in branch.get("properties", {}).items():
            options = part.get("enum", ())
            if len(options) == 1 and name in value and value[name] != options[0]:
                return Fault((*path, name), "enum", f"must be {options[0]!r}", tuple(options))
    return None


def _likeliest(faults: Sequence[Fault], path: Path) -> Fault:
    """Choose among the faults of alternatives: what failed furthest inside was most probably meant."""
    kinds = [fault for fault in faults if fault.keyword == "enum" and len(fault.detail) == 1]
    if len(kinds) == len(faults) and len({fault.path for fault in faults}) == 1:  # {"type": "tex"}
        return _not_among(tuple(value for fault in faults for value in fault.detail), None, faults[0].path)
    meant = [fault for fault in faults if fault not in kinds] or list(faults)
    types = [fault for fault in meant if fault.path == path and fault.keyword == "type"]
    if len(types) == len(meant):
        return _wrong_type(tuple(dict.fromkeys(kind for fault in types for kind in fault.detail)), path)
    return max((fault for fault in meant if fault not in types), key=_depth)


def _depth(fault: Fault) -> tuple[int, bool, list[int]]:
    present = fault.keyword != "required"
    return len(fault.path), present, [part for part in fault.path if isinstance(part, int)]


def _wrong_type(types: tuple[str, ...], path: Path) -> Fault:
    words = [_ARTICLES[kind] for kind in sorted(types, key="null".__eq__)]  # null last
    return Fault(path, "type", f"must be {_either(words)}", types)


def _not_among(options: tuple[Any, ...], value: Any, path: Path) -> Fault:
    hint = did_you_mean(value, (one for one in options if isinstance(one, str))) if isinstance(value, str) else ""
    named = "null" if None in options else ""
    words = [repr(option) for option in options if option is not None][:50] + ([named] if named else [])
    return Fault(path, "enum", f"must be {_either(words)}{hint}", options)


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


_LIMITS = {
    "minimum": "must be at least {limit}",
    "maximum": "must be at most {limit}",
    "exclusiveMinimum": "must be greater than {limit}",
    "exclusiveMaximum": "must be less than {limit}",
    "minLength": "must have at least {limit} character{s}",
    "maxLength": "must have at most {limit} character{s}",
    "minItems": "must have at least {limit} element{s}",
    "maxItems": "must have at most {limit} element{s}",
    "minProperties": "must have at least {limit} member{s}",
    "maxProperties": "must have at most {limit} member{s}",
}


def _phrase(error: jsonschema_rs.ValidationError, value: Any, path: Path) -> Fault:
    kind: Any = error.kind
    keyword = str(error.schema_path[-1]) if error.schema_path else kind.name
    if keyword == "type":
        return _wrong_type(tuple(kind.types), path)
    if keyword == "enum":
        return _not_among(tuple(kind.options), value, path)
    if keyword == "required":
        return Fault((*path, kind.property), keyword, "is required")
    if keyword == "additionalProperties":
        return Fault((*path, kind.unexpected[0]), keyword, "is not a known field")
    if keyword in _LIMITS:
        return Fault(path, keyword, _LIMITS[keyword].format(limit=kind.limit, s="" if kind.limit == 1 else "s"))
    if keyword == "multipleOf":
        return Fault(path, keyword, f"must be a multiple of {kind.multiple_of}")
    if keyword == "pattern":
        return Fault(path, keyword, f"must match {kind.pattern!r}")
    if keyword == "format":
        return Fault(path, keyword, f"must be a {kind.format}")
    if keyword == "uniqueItems":
        return Fault(path, keyword, "must not have the same element twice")
    return Fault(path, keyword, _VAGUE)
