"""A plugin's part of the API document: is it one? Whether it goes with what is there, `document.merge` finds out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs

from llamafw.errors import SpecError
from llamafw.spec.operations import Document, operations
from llamafw.spec.schemas import with_text_keys

SECTIONS = ("paths", "components", "tags")
HEAD = ("openapi", "info")  # which a fragment may have, to be a document by itself, and which count for nothing


def checked(fragment: Any) -> Document:
    """Return what a plugin's ``extend_openapi`` has returned; SpecError if it is no part of an OpenAPI document."""
    if not isinstance(fragment, Mapping):
        raise SpecError(f"extend_openapi returned {fragment!r:.80}, and not a mapping")
    if unknown := [str(key) for key in fragment if key not in SECTIONS + HEAD]:
        raise SpecError(f"a fragment has paths, components and tags, not {', '.join(sorted(unknown))}")
    parts = {name: with_text_keys(fragment[name]) for name in SECTIONS if name in fragment}
    document = {"openapi": "3.0.3", "info": {"title": "x", "version": "1"}, "paths": {}, **parts}
    try:
        error = next(iter(_openapi().iter_errors(document)), None)
    except (ValueError, TypeError) as exc:  # a date, which YAML has and JSON has not
        raise SpecError(f"its API document is no JSON: {exc}") from None
    if error is not None:
        while inner := [one for branch in getattr(error.kind, "context", ()) for one in branch]:
            error = max(inner, key=lambda cause: len(cause.instance_path))  # of "none of these fits" the nearest
        place = ".".join(map(str, error.instance_path))
        raise SpecError(f"its API document is not valid at {place}: {error.message:.300}")
    for path, method, operation in operations(document):
        if not operation.get("operationId"):
            raise SpecError(f"{method.upper()} {path} has no operationId")
    return parts


def references(part: Any) -> Iterator[str]:
    """Yield what a part of a document refers to, in the order it stands there."""
    if isinstance(part, list):
        for one in part:
            yield from references(one)
    elif isinstance(part, Mapping):
        for key, one in part.items():
            if key == "$ref" and isinstance(one, str):
                yield one
            elif key not in ("example", "examples", "default", "enum"):  # which hold anything
                yield from references(one)


@cache
def _openapi() -> jsonschema_rs.Draft4Validator:
    """Return a validator for OpenAPI 3.0, by the schema that connexion holds the whole document against."""
    connexion = find_spec("connexion")
    assert connexion is not None  # a dependency, which takes long to import
    assert connexion.origin is not None
    schema = Path(connexion.origin).parent / "resources" / "schemas" / "v3.0" / "schema.json"
    return jsonschema_rs.Draft4Validator(json.loads(schema.read_text("utf-8")))
