"""Checks that an API document is valid OpenAPI, with the schema of OpenAPI 3.0 that connexion has.

Connexion's own check takes a quarter of a second for ``openapi.yaml``, because it is written in Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs

from llamafw.spec.operations import Document
from llamafw.spec.schemas import as_json_schema

Keys = tuple[str | int, ...]
"""Keys that lead to a part, from the root of a document."""


class Fault(NamedTuple):
    """What is wrong with a document, and where."""

    path: Keys
    message: str


def find_fault(document: Document) -> Fault | None:
    """Return what makes a document invalid, or None.

    A default must also be valid by the schema that it belongs to.

    Raises
    ------
    ValueError, TypeError
        The document cannot be written as JSON.
    """
    return find_fault_of_form(document) or _find_wrong_default(document)


def find_fault_of_form(document: Document) -> Fault | None:
    """Return what makes a document invalid, or None; defaults are not checked.

    Raises
    ------
    ValueError, TypeError
        The document cannot be written as JSON.
    """
    error = next(iter(_openapi_validator().iter_errors(document)), None)
    if error is None:
        return None
    while nested := [cause for branch in getattr(error.kind, "context", ()) for cause in branch]:
        error = max(nested, key=lambda cause: len(cause.instance_path))  # the closest of several alternatives
    return Fault(tuple(error.instance_path), error.message)


@cache
def _openapi_validator() -> jsonschema_rs.Draft4Validator:
    connexion = find_spec("connexion")  # finding it is quick; importing it is not
    assert connexion is not None  # a dependency
    assert connexion.origin is not None
    schema = Path(connexion.origin).parent / "resources" / "schemas" / "v3.0" / "schema.json"
    return jsonschema_rs.Draft4Validator(json.loads(schema.read_text("utf-8")))


def _find_wrong_default(document: Document) -> Fault | None:
    """Check all defaults at once, as the properties of one object: references are resolved only once then."""
    schemas = {str(number): found for number, found in enumerate(_schemas(document, ())) if "default" in found[1]}
    validator = jsonschema_rs.Draft4Validator(
        {
            "properties": {number: as_json_schema(schema) for number, (_, schema) in schemas.items()},
            "components": {"schemas": as_json_schema(document.get("components", {}).get("schemas", {}))},
        }
    )
    defaults = {number: schema["default"] for number, (_, schema) in schemas.items()}
    error = next(iter(validator.iter_errors(defaults)), None)
    if error is None:
        return None
    path, _ = schemas[str(error.instance_path[0])]
    return Fault((*path, "default"), error.message)


def _schemas(part: Any, path: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Yield the path and the content of each schema within a part of a document."""
    if isinstance(part, list):
        for index, item in enumerate(part):
            yield from _schemas(item, (*path, index))
    elif isinstance(part, Mapping):
        for key, value in part.items():
            if key == "schema":
                yield from _schemas_within(value, (*path, key))
            elif key == "schemas":
                for name, schema in value.items():
                    yield from _schemas_within(schema, (*path, key, name))
            elif key not in ("example", "examples") and not key.startswith("x-"):
                yield from _schemas(value, (*path, key))


def _schemas_within(schema: Mapping[str, Any], path: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Yield the path and the content of a schema and of each schema within it."""
    yield path, schema
    for key, value in schema.items():
        if key in ("items", "not", "additionalProperties") and isinstance(value, Mapping):
            yield from _schemas_within(value, (*path, key))
        elif key in ("allOf", "anyOf", "oneOf"):
            for index, branch in enumerate(value):
                yield from _schemas_within(branch, (*path, key, index))
        elif key == "properties":
            for name, one in value.items():
                yield from _schemas_within(one, (*path, key, name))
