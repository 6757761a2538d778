"""Checks that an API document is valid OpenAPI, with the schema of OpenAPI 3.0 that connexion has.

Connexion's own check takes a quarter of a second for ``openapi.yaml``, because it is written in Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs

from llamafw.spec.operations import METHODS, Document
from llamafw.spec.schemas import as_json_schema

Keys = tuple[str | int, ...]
"""Keys that lead to a part, from the root of a document."""


class Fault(NamedTuple):
    """What is wrong with a document, and where."""

    path: Keys
    message: str

    @property
    def place(self) -> str:
        """The path with dots, for error messages."""
        return ".".join(map(str, self.path)) or "its root"


def find_fault(document: Document) -> Fault | None:
    """Return what makes a document invalid, or None.

    Also check that defaults match their schemas.

    Raises
    ------
    ValueError, TypeError
        The document cannot be written as JSON.
    """
    return find_schema_fault(document) or _find_wrong_default(document)


def find_schema_fault(document: Document) -> Fault | None:
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


_CONTENT = {"content": ("map", "media type")}
_DESCRIBED = {"schema": ("one", "schema"), **_CONTENT}
_METHODS = dict.fromkeys(METHODS, ("one", "operation"))
_SERVERS = {"servers": ("list", "server")}
_PARTS: dict[str, dict[str, tuple[str, str]]] = {
    "document": {"paths": ("patterns", "path item"), "components": ("one", "components"), **_SERVERS},
    "components": {
        "schemas": ("map", "schema"),
        "responses": ("map", "response"),
        "parameters": ("map", "parameter"),
        "requestBodies": ("map", "request body"),
        "headers": ("map", "parameter"),
        "callbacks": ("map", "callback"),
    },
    "path item": {"parameters": ("list", "parameter"), **_METHODS, **_SERVERS},
    "operation": {
        "parameters": ("list", "parameter"),
        "requestBody": ("one", "request body"),
        "responses": ("patterns", "response"),
        "callbacks": ("map", "callback"),
        **_SERVERS,
    },
    "parameter": _DESCRIBED,
    "request body": _CONTENT,
    "response": {"headers": ("map", "parameter"), **_CONTENT},
    "media type": {"schema": ("one", "schema"), "encoding": ("map", "encoding")},
    "encoding": {"headers": ("map", "parameter")},
    "server": {"variables": ("map", "schema")},  # they have an enum and a default, as schemas do
    "schema": {
        "items": ("one", "schema"),
        "not": ("one", "schema"),
        "additionalProperties": ("one", "schema"),
        "allOf": ("list", "schema"),
        "anyOf": ("list", "schema"),
        "oneOf": ("list", "schema"),
        "properties": ("map", "schema"),
    },
}
"""Objects of OpenAPI 3.0 → their fields that lead to schemas → how many there are ("one", "list", a "map" by name, or
"patterns": a map that may have extensions) and what they are. A callback is itself a map of path items."""


def _find_wrong_default(document: Document) -> Fault | None:
    """Check all defaults at once, as the properties of one object: so that references are resolved only once."""
    found = [(path, schema) for path, schema in _schemas("document", document, ()) if "default" in schema]
    try:
        return _check_defaults(document, found)
    except ValueError:  # a schema cannot be compiled
        for one in found:
            try:
                _check_defaults(document, [one])
            except ValueError as error:
                return Fault(one[0], f"its default cannot be checked: {error}")
        raise


def _check_defaults(document: Document, found: Sequence[tuple[Keys, Mapping[str, Any]]]) -> Fault | None:
    """Return the first of these schemas' defaults that is wrong; ValueError if a schema cannot be compiled."""
    components = document.get("components", {})
    schemas = {name: as_json_schema(schema) for name, schema in components.get("schemas", {}).items()}
    root = document | {
        "components": {**components, "schemas": schemas},
        "properties": {str(number): as_json_schema(schema) for number, (_, schema) in enumerate(found)},
    }
    validator = jsonschema_rs.Draft4Validator(root, validate_formats=False)
    defaults = {str(number): schema["default"] for number, (_, schema) in enumerate(found)}
    error = next(iter(validator.iter_errors(defaults)), None)
    if error is None:
        return None
    path, _ = found[int(error.instance_path[0])]
    return Fault((*path, "default"), error.message)


def _schemas(kind: str, part: Any, path: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Yield the path and the content of each schema in a part of a document; references are not followed."""
    if not isinstance(part, Mapping) or "$ref" in part:  # additionalProperties may be a boolean
        return
    if kind == "schema":
        yield path, part
    if kind == "callback":
        yield from _schemas_of("patterns", "path item", part, path)
    for name, (number, child) in _PARTS.get(kind, {}).items():
        if name in part:
            yield from _schemas_of(number, child, part[name], (*path, name))


def _schemas_of(number: str, kind: str, value: Any, path: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    if number == "one":
        yield from _schemas(kind, value, path)
    elif number == "list":
        for index, one in enumerate(value):
            yield from _schemas(kind, one, (*path, index))
    else:
        for name, one in value.items():
            if number == "map" or not name.startswith("x-"):
                yield from _schemas(kind, one, (*path, name))
