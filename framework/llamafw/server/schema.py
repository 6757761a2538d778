"""Compile the schemas of the API document to fast validators, and list the fields of a body with their defaults.

jsonschema-rs takes milliseconds to check a megabyte of token ids. `llamafw.server.violations` finds out what is wrong
with an invalid value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonschema_rs

from llamafw.spec import PLUGIN, as_json_schema

Schema = Mapping[str, Any]

_MAX_REFERENCES = 32  # followed one after another; references may form a circle
_MAX_NULLABLE_DEPTH = 8  # of anyOf and oneOf within each other


class Schemas:
    """All schemas of one document.

    A validator is compiled when it is first used, and kept.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._validators: dict[int, tuple[Schema, jsonschema_rs.Draft4Validator]] = {}

    @cached_property
    def _components(self) -> dict[str, Any]:
        schemas = self._document.get("components", {}).get("schemas", {})
        return {name: as_json_schema(schema) for name, schema in schemas.items()}

    @cached_property
    def _references(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(_references(schema)) for name, schema in self._components.items()}

    def convert(self, schema: Schema) -> dict[str, Any]:
        """Return a schema of the document as JSON Schema draft 4."""
        return as_json_schema(schema)  # type: ignore[no-any-return]  # a mapping stays one

    def validator(self, schema: Schema) -> jsonschema_rs.Draft4Validator:
        """Return the validator of a converted schema.

        Pass the same object again to get the same validator. It has only the schemas that are referred to: with all, a
        server's validators would take hundreds of megabytes.
        """
        cached = self._validators.get(id(schema))
        if cached is None:
            root = {"allOf": [schema], "components": {"schemas": self._needed(schema)}}
            cached = schema, jsonschema_rs.Draft4Validator(root, validate_formats=True)
            self._validators[id(schema)] = cached
        return cached[1]

    def resolve(self, schema: Schema) -> Schema:
        """Return the schema that a converted schema's ``$ref`` refers to, or the schema itself if it has none."""
        n_followed = 0
        while "$ref" in schema and n_followed < _MAX_REFERENCES:
            schema, n_followed = self._components[_schema_name(schema["$ref"])], n_followed + 1
        return schema

    def _needed(self, schema: Schema) -> dict[str, Any]:
        """Return the schemas that a converted schema refers to, and those that they refer to, by name."""
        found, names = dict[str, Any](), list(_references(schema))
        while names:
            name = names.pop()
            if name not in found and name in self._components:  # compiling reports others
                found[name] = self._components[name]
                names += self._references[name]
        return found

    def raw(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the part of the document that a part's ``$ref`` refers to, or the part itself if it has none.

        Nothing is converted.
        """
        n_followed = 0
        while "$ref" in part and n_followed < _MAX_REFERENCES:
            target: Any = self._document
            for name in part["$ref"].removeprefix("#/").split("/"):
                target = target[_unescape(name)]
            part, n_followed = target, n_followed + 1
        return part


def _references(part: Any) -> Iterator[str]:
    """Yield the names in the references of a converted schema."""
    if isinstance(part, dict):
        if isinstance(ref := part.get("$ref"), str):
            yield _schema_name(ref)
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _references(one)


def _schema_name(ref: str) -> str:
    return _unescape(ref.rpartition("/")[2])


def _unescape(name: str) -> str:
    """Undo the escapes of JSON Pointer (RFC 6901)."""
    return name.replace("~1", "/").replace("~0", "~")


@dataclass(frozen=True, slots=True)
class Fields:
    """The top-level fields of an object, as the document defines them."""

    known: frozenset[str]
    defaults: Mapping[str, Any]
    nullable: frozenset[str]  # optional fields where null means "not given"
    allows_others: bool  # whether fields that are not in `known` are passed on
    owners: Mapping[str, str]  # field → name of the plugin that added it


def fields_of(schema: Schema, schemas: Schemas) -> Fields:
    """Return the fields of a schema that has not been converted.

    The schemas behind ``$ref`` and in ``allOf``, ``anyOf`` and ``oneOf`` are included. Defaults within ``anyOf`` and
    ``oneOf`` are ignored because they may not apply.
    """
    known: dict[str, Mapping[str, Any]] = {}
    required: set[str] = set()
    defaults: dict[str, Any] = {}
    allows_others = False

    def collect(part: Mapping[str, Any], always_applies: bool) -> None:
        nonlocal allows_others
        part = schemas.raw(part)
        for name, field in part.get("properties", {}).items():
            known.setdefault(name, field)
            if always_applies and "default" in (field := schemas.raw(field)):
                defaults[name] = field["default"]
        if always_applies:
            required.update(part.get("required", ()))
        allows_others = allows_others or bool(part.get("additionalProperties"))

        for branch in part.get("allOf", ()):
            collect(branch, always_applies)
        for keyword in ("anyOf", "oneOf"):
            for branch in part.get(keyword, ()):
                collect(branch, False)

    collect(schema, True)
    nullable = {name for name, field in known.items() if name not in required and _is_nullable(field, schemas)}
    owners = {name: field[PLUGIN] for name, field in known.items() if PLUGIN in field}
    return Fields(frozenset(known), defaults, frozenset(nullable), allows_others or not known, owners)


def _is_nullable(schema: Schema, schemas: Schemas, depth: int = 0) -> bool:
    schema = schemas.raw(schema)
    if schema.get("nullable") or None in schema.get("enum", ()):
        return True
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return depth < _MAX_NULLABLE_DEPTH and any(_is_nullable(branch, schemas, depth + 1) for branch in branches)
