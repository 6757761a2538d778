"""Describe JSON schemas as rows of a table: one row per field, with the rows of nested objects below it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SAMPLER_OPTIONS = "x-llamafw-sampler-options"  # on schemas with the fields of every generating operation
SHARED_SCHEMA = "GenerationOptions"
"""The schema whose fields the page shows once, because every generating operation has them."""

_MAX_DEPTH = 4  # levels of nested objects
_BOUNDS = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("pattern", "matches {}"),
)

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object.

    Attributes
    ----------
    name : str
        The field's name.
    type : str
        Its type, in words.
    is_required : bool
        Whether it must be given.
    limits : str
        Its default and bounds, in words.
    description : str
        Markdown.
    sampler : str or None
        The sampler that has it as an option.
    plugin : str or None
        The plugin that adds it, if it is not built in.
    fields : tuple of Field
        The fields of the objects in it.
    """

    name: str
    type: str
    is_required: bool
    limits: str
    description: str
    sampler: str | None
    plugin: str | None
    fields: tuple[Field, ...]


class Fields:
    """Reads the schemas of one API document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        shared = document.get("components", {}).get("schemas", {}).get(SHARED_SCHEMA, {})
        self._shared: Schema = shared.get("properties", {}) if shared.get(SAMPLER_OPTIONS) else {}

    def resolve(self, part: Any) -> Any:
        """Return a part of the document, or what its ``$ref`` points to."""
        while isinstance(part, Mapping) and "$ref" in part:
            target: Any = self._document
            for name in part["$ref"].split("/")[1:]:
                target = target[name.replace("~1", "/").replace("~0", "~")]
            part = target
        return part

    def shared(self) -> tuple[Field, ...]:
        """Return the fields that every generating operation has; none if the document has no such fields."""
        return tuple(self._field(name, schema, False, ()) for name, schema in self._shared.items())

    def of(self, schema: Any) -> tuple[tuple[Field, ...], bool]:
        """Return the fields of a schema's objects.

        Returns
        -------
        fields : tuple of Field
            The fields, without those of `shared` if the schema has all of them.
        has_shared : bool
            Whether those were left out.
        """
        properties = dict(self._properties(schema))
        has_shared = bool(self._shared) and all(
            name in properties and properties[name][0] == self._shared[name] for name in self._shared
        )
        fields = tuple(
            self._field(name, part, is_required, ())
            for name, (part, is_required) in properties.items()
            if not (has_shared and name in self._shared and not is_required)
        )
        return fields, has_shared

    def _field(self, name: str, part: Any, is_required: bool, path: tuple[int, ...]) -> Field:
        schema = self.resolve(part)
        nested: tuple[Field, ...] = ()
        if id(schema) not in path and len(path) < _MAX_DEPTH:
            inner = (*path, id(schema))
            nested = tuple(self._field(key, value, needed, inner) for key, (value, needed) in self._properties(schema))
        return Field(
            name=name,
            type=self.type_of(schema),
            is_required=is_required,
            limits=self._limits(schema),
            description=str(schema.get("description", "")),
            sampler=schema.get("x-llamafw-sampler"),
            plugin=schema.get("x-llamafw-plugin"),
            fields=nested,
        )

    def _properties(self, part: Any) -> Iterator[tuple[str, tuple[Any, bool]]]:
        """Yield each property of the objects in a schema once, and whether it is required."""
        found: dict[str, tuple[Any, bool]] = {}
        for schema in self._objects(part):
            required = schema.get("required", ())
            for name, value in schema.get("properties", {}).items():
                found.setdefault(name, (value, name in required))
        yield from found.items()

    def _objects(self, part: Any, depth: int = 0) -> Iterator[Schema]:
        """Yield the schemas with properties that a value, its items or its alternatives can match."""
        schema = self.resolve(part)
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return
        if "properties" in schema:
            yield schema
        for key in ("allOf", "anyOf", "oneOf"):
            for alternative in schema.get(key, ()):
                yield from self._objects(alternative, depth + 1)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), Mapping):
                yield from self._objects(schema[key], depth + 1)

    def type_of(self, part: Any, depth: int = 0) -> str:
        """Return a schema's type in words, such as ``array of string or integer``."""
        schema = self.resolve(part)
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return "any"
        if "enum" in schema:
            return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"] if value is not None)
        alternatives = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        if alternatives and "properties" not in schema:
            return " or ".join(dict.fromkeys(self.type_of(each, depth + 1) for each in alternatives))
        if len(schema.get("allOf", ())) > 0 and "type" not in schema:
            return self.type_of(schema["allOf"][0], depth + 1)
        if schema.get("type") == "array":
            items = self.type_of(schema.get("items", {}), depth + 1)
            return f"array of ({items})" if " or " in items or " | " in items else f"array of {items}"
        return str(schema.get("type", "object" if "properties" in schema else "any"))

    def _limits(self, schema: Schema) -> str:
        parts = []
        if schema.get("default") is not None:
            parts.append(f"default {json.dumps(schema['default'], ensure_ascii=False)}")
        for key, words in _BOUNDS:
            if key in schema and not _is_size_of_integers(schema[key]):
                parts.append(words.format(schema[key]))
        return ", ".join(parts)


def _is_size_of_integers(value: Any) -> bool:
    """Return whether a bound only says how many bits an integer has, which readers need not know."""
    return isinstance(value, int) and abs(value) >= 2**31 - 1
