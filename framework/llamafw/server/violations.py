"""Find out why a value is invalid, and describe it in a sentence that names the field.

A validator that lists every error takes half a minute for a megabyte of wrong tokens. This search returns only the most
helpful violation, and takes milliseconds. It expects a value that a validator has found invalid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from llamafw.errors import RequestError, did_you_mean
from llamafw.server.schema import Schema, Schemas

_NESTING_KEYWORDS = {
    "properties",
    "items",
    "additionalProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "$ref",
    "components",
}
_TYPE_PHRASES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_MAX_STEPS = 1000
_MAX_DEPTH = 100  # of values within values
_MAX_OPTIONS = 50  # named in a message
_VAGUE = "is not valid"

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that the value at ``path`` breaks.

    ``text`` continues a sentence: "must be …".
    """

    path: Path
    keyword: str
    text: str
    expected: tuple[Any, ...] = ()  # the types or values that would be valid

    @property
    def param(self) -> str | None:
        """The path, joined with dots, or None for the whole body."""
        return ".".join(map(str, self.path)) or None

    @property
    def message(self) -> str:
        """A sentence for the client."""
        return f"{self.param or 'the request body'} {self.text}"


def find_violation(schema: Schema, value: Any, schemas: Schemas) -> Violation:
    """Return why the converted ``schema`` does not allow ``value``."""
    return _Search(schemas).find(schema, value, ()) or Violation((), "", _VAGUE)


def violation_error(message: str, param: str | None, plugin: str | None) -> RequestError:
    """Return the error for an invalid value; ``plugin`` is the plugin that added the field, if one has."""
    if plugin is None:
        return RequestError(message, param=param)
    return RequestError(f"{message} (plugin {plugin})", param=param, extra={"plugin": plugin})


class _Search:
    """One search for a violation.

    If nested alternatives make it too long, it ends with a vague answer.
    """

    def __init__(self, schemas: Schemas) -> None:
        self.schemas = schemas
        self.n_steps_left = _MAX_STEPS

    def find(self, schema: Schema, value: Any, path: Path) -> Violation | None:
        """Return what is wrong with ``value``, or None if it is valid."""
        schema = self.schemas.resolve(schema)
        if self.schemas.validator(schema).is_valid(value):
            return None
        self.n_steps_left -= 1
        if self.n_steps_left < 0 or len(path) > _MAX_DEPTH:
            return Violation(path, "", _VAGUE)
        return (
            _violation_of_value(schema, value, path)
            or self.find_inside(schema, value, path)
            or self.find_in_combination(schema, value, path)
            or Violation(path, "not", _describe_not(schema))
        )

    def find_inside(self, schema: Schema, value: Any, path: Path) -> Violation | None:
        """Check the members of an object and the elements of an array."""
        if isinstance(value, dict):
            properties = schema.get("properties", {})
            additional = schema.get("additionalProperties")
            for name, member in value.items():
                inner = properties.get(name, additional)
                if isinstance(inner, Mapping) and (violation := self.find(inner, member, (*path, name))):
                    return violation

        elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
            is_valid = self.schemas.validator(schema["items"]).is_valid
            wrong = next((index for index, element in enumerate(value) if not is_valid(element)), None)
            if wrong is not None:
                return self.find(schema["items"], value[wrong], (*path, wrong))
        return None

    def find_in_combination(self, schema: Schema, value: Any, path: Path) -> Violation | None:
        """Check ``allOf``; if no branch of ``anyOf`` or ``oneOf`` fits, choose the one that the client meant."""
        for part in schema.get("allOf", ()):
            if violation := self.find(part, value, path):
                return violation

        for keyword in ("anyOf", "oneOf"):
            branches = schema.get(keyword, ())
            violations = [
                violation
                for branch in branches
                if (
                    violation := _violation_of_tag(self.schemas.resolve(branch), value, path)
                    or self.find(branch, value, path)
                )
            ]
            if branches and len(violations) == len(branches):
                return _most_helpful(violations, path)
            if keyword == "oneOf" and len(branches) - len(violations) > 1:
                return Violation(path, keyword, "can be read in more than one way")
        return None


def _describe_not(schema: Schema) -> str:
    """Return how the message about a value that ``not`` excludes ends."""
    excluded = schema.get("not")
    values = excluded.get("enum") if isinstance(excluded, Mapping) else None
    return f"must not be {' or '.join(map(repr, values))}" if values else "is not allowed"


def _violation_of_value(schema: Schema, value: Any, path: Path) -> Violation | None:
    """Check the keywords that concern the value itself and nothing within it."""
    flat = {key: part for key, part in schema.items() if key not in _NESTING_KEYWORDS}
    if schema.get("additionalProperties") is False:
        flat |= {"additionalProperties": False, "properties": dict.fromkeys(schema.get("properties", ()), {})}
    error = next(iter(jsonschema_rs.Draft4Validator(flat, validate_formats=True).iter_errors(value)), None)
    return None if error is None else _describe(error, value, path)


def _violation_of_tag(branch: Schema, value: Any, path: Path) -> Violation | None:
    """Check an object's tags: properties with only one valid value.

    Another value means another branch.
    """
    if isinstance(value, dict):
        for name, part in branch.get("properties", {}).items():
            options = part.get("enum", ())
            if len(options) == 1 and name in value and value[name] != options[0]:
                return Violation((*path, name), "enum", f"must be {options[0]!r}", tuple(options))
    return None


def _most_helpful(violations: Sequence[Violation], path: Path) -> Violation:
    """Choose among the violations of alternatives: the client probably meant the one that fails deepest inside."""
    tags = [violation for violation in violations if violation.keyword == "enum" and len(violation.expected) == 1]
    candidates = [violation for violation in violations if violation not in tags] or list(violations)
    types = [violation for violation in candidates if violation.path == path and violation.keyword == "type"]
    # {"type": "tex"}: an object with an unknown tag; branches for texts and numbers are not what was meant
    if len({tag.path for tag in tags}) == 1 and len(tags) + len(types) == len(violations):
        return _not_an_option(tuple(tag.expected[0] for tag in tags), None, tags[0].path)
    if len(types) == len(candidates):
        return _wrong_type(tuple(dict.fromkeys(kind for violation in types for kind in violation.expected)), path)

    others = [violation for violation in candidates if violation not in types]
    # [""] is meant as texts, not as token ids, so the error is not about branches with elements of another type
    meant = [violation for violation in others if not _is_other_element(violation, path)]
    if not meant and len({violation.path for violation in others}) == 1:  # [null] fits no branch
        expected = (kind for violation in others for kind in violation.expected)
        return _wrong_type(tuple(dict.fromkeys(expected)), others[0].path)
    return max(meant or others, key=_rank)


def _is_other_element(violation: Violation, path: Path) -> bool:
    """Return whether an element of the array at ``path`` has another type than the branch expects."""
    is_element = len(violation.path) == len(path) + 1 and isinstance(violation.path[-1], int)
    return is_element and violation.keyword == "type"


def _rank(violation: Violation) -> tuple[int, bool, list[int]]:
    """Return a sort key: higher for deeper violations, then for present fields, then for later array elements."""
    is_present = violation.keyword != "required"
    return len(violation.path), is_present, [part for part in violation.path if isinstance(part, int)]


def _wrong_type(types: tuple[str, ...], path: Path) -> Violation:
    phrases = [_TYPE_PHRASES[kind] for kind in sorted(types, key="null".__eq__)]  # null last
    return Violation(path, "type", f"must be {_join_with_or(phrases)}", types)


def _not_an_option(options: tuple[Any, ...], value: Any, path: Path) -> Violation:
    names = (option for option in options if isinstance(option, str))
    hint = did_you_mean(value, names) if isinstance(value, str) else ""
    phrases = [repr(option) for option in options if option is not None][:_MAX_OPTIONS]
    if None in options:
        phrases.append("null")
    return Violation(path, "enum", f"must be {_join_with_or(phrases)}{hint}", options)


def _join_with_or(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} or {phrases[-1]}"


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


def _describe(error: jsonschema_rs.ValidationError, value: Any, path: Path) -> Violation:
    """Translate one of jsonschema-rs's errors."""
    kind: Any = error.kind
    keyword = str(error.schema_path[-1]) if error.schema_path else kind.name

    if keyword == "type":
        if isinstance(value, float) and value.is_integer() and "integer" in kind.types:
            return Violation(path, keyword, "must be an integer of at most 64 bits", tuple(kind.types))
        return _wrong_type(tuple(kind.types), path)
    if keyword == "enum":
        return _not_an_option(tuple(kind.options), value, path)
    if keyword == "required":
        return Violation((*path, kind.property), keyword, "is required")
    if keyword == "additionalProperties":
        return Violation((*path, kind.unexpected[0]), keyword, "is not a known field")

    if keyword in _LIMITS:
        return Violation(path, keyword, _LIMITS[keyword].format(limit=kind.limit, s="" if kind.limit == 1 else "s"))
    if keyword == "multipleOf":
        return Violation(path, keyword, f"must be a multiple of {kind.multiple_of}")
    if keyword == "pattern":
        return Violation(path, keyword, f"must match {kind.pattern!r}")
    if keyword == "format":
        return Violation(path, keyword, f"must be a {kind.format}")
    if keyword == "uniqueItems":
        return Violation(path, keyword, "must not contain the same element twice")
    return Violation(path, keyword, _VAGUE)
