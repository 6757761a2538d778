"""Schemas of the API document, compiled to fast validators. It knows nothing of requests.

jsonschema-rs says within milliseconds whether a megabyte of token ids is valid; `faults` says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from llamafw.spec import PLUGIN, as_json_schema

Schema = Mapping[str, Any]


class Schemas:
    """All schemas of one document; validators are made on first use and kept."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._components = {"schemas": as_json_schema(document.get("components", {}).get("schemas", {}))}
        self._validators: dict[int, tuple[Schema, jsonschema_rs.Draft4Validator]] = {}

    def convert(self, schema: Schema) -> dict[str, Any]:
        """Return a schema of the document as JSON Schema draft 4."""
        return as_json_schema(schema)  # type: ignore[no-any-return]  # a mapping stays one

    def validator(self, schema: Schema) -> jsonschema_rs.Draft4Validator:
        """Return the validator of a converted schema. Kept by identity, so pass the same object again."""
        known = self._validators.get(id(schema))
        if known is None:
            root = {"allOf": [schema], "components": self._components}
            known = schema, jsonschema_rs.Draft4Validator(root, validate_formats=True)
            self._validators[id(schema)] = known
        return known[1]

    def resolve(self, schema: Schema) -> Schema:
        """Return what a converted schema's ``$ref``, if it has one, points to."""
        seen = 0
        while "$ref" in schema and seen < 32:  # a ring of references means nothing
            schema, seen = self._components["schemas"][_name(schema["$ref"])], seen + 1
        return schema

    def raw(self, thing: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a part of the document with its ``$ref``, if it has one, followed."""
        seen = 0
        while "$ref" in thing and seen < 32:
            target: Any = self._document
            for part in thing["$ref"].removeprefix("#/").split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            thing, seen = target, seen + 1
        return thing


def _name(ref: str) -> str:
    return ref.rpartition("/")[2].replace("~1", "/").replace("~0", "~")


@dataclass(frozen=True, slots=True)
class Fields:
    """What the document says of the top-level fields of an object."""

    known: frozenset[str]
    defaults: Mapping[str, Any]
    nullable: frozenset[str]  # optional fields where null means "not given"
    open: bool  # other fields are welcome
    owners: Mapping[str, str]  # of those that plugins have added


def fields_of(schema: Schema, schemas: Schemas) -> Fields:
    """Return the fields of a raw schema, through ``$ref``, ``allOf`` and the branches of ``anyOf`` and ``oneOf``.

    Defaults count only where they hold for sure, which is not within a branch.
    """
    known: dict[str, Mapping[str, Any]] = {}
    required: set[str] = set()
    defaults: dict[str, Any] = {}
    is_open = False

    def collect(part: Mapping[str, Any], certain: bool) -> None:
        nonlocal is_open
        part = schemas.raw(part)
        for name, field in part.get("properties", {}).items():
            known.setdefault(name, field)
            if certain and "default" in (field := schemas.raw(field)):
                defaults[name] = field["default"]
        if certain:
            required.update(part.get("required", ()))
        is_open = is_open or bool(part.get("additionalProperties"))
        for branch in part.get("allOf", ()):
            collect(branch, certain)
        for keyword in ("anyOf", "oneOf"):
            for branch in part.get(keyword, ()):
                collect(branch, False)

    collect(schema, True)
    nullable = {name for name, field in known.items() if name not in required and _nullable(field, schemas)}
    owners = {name: field[PLUGIN] for name, field in known.items() if PLUGIN in field}
    return Fields(frozenset(known), defaults, frozenset(nullable), is_open or not known, owners)


def _nullable(schema: Schema, schemas: Schemas, depth: int = 0) -> bool:
    schema = schemas.raw(schema)
    if schema.get("nullable") or None in schema.get("enum", ()):
        return True
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return depth < 8 and any(_nullable(branch, schemas, depth + 1) for branch in branches)
