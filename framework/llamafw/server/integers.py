"""Turn integral floats of request bodies into integers: some clients write every number as a float, 4 as ``4.0``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llamafw.server.schema import Schema, Schemas

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1  # what orjson reads as an integer

_Branches = tuple[Schema, ...]


class IntegerReader:
    """Reads integral floats as integers wherever a schema asks for integers.

    Parameters
    ----------
    schema : mapping
        A converted schema.
    schemas : Schemas
        The document's schemas, for ``$ref``.
    """

    def __init__(self, schema: Schema, schemas: Schemas) -> None:
        self._schema, self._schemas = schema, schemas
        self._branches = self._flatten([schema])
        self._flattened: dict[tuple[int, ...], _Branches] = {}  # ids of schemas → all that they consist of

    def read(self, body: Any) -> Any:
        """Return a copy of ``body``, valid or not, with integers in place of the floats that stand for them."""
        return self._read(body, self._branches)

    def _read(self, value: Any, branches: _Branches) -> Any:
        if not branches:
            return value
        if isinstance(value, float):
            return int(value) if _is_integer(value) and _expects_integer(branches) else value
        if isinstance(value, list):
            items = self._parts([branch["items"] for branch in branches if "items" in branch])
            return [self._read(item, items) for item in value]
        if isinstance(value, dict):
            return {name: self._read(item, self._member(name, branches)) for name, item in value.items()}
        return value

    def _member(self, name: str, branches: _Branches) -> _Branches:
        """Return the schemas of an object's member."""
        members = [branch.get("properties", {}).get(name, branch.get("additionalProperties")) for branch in branches]
        return self._parts([member for member in members if isinstance(member, Mapping)])

    def _parts(self, schemas: Sequence[Schema]) -> _Branches:
        key = tuple(map(id, schemas))
        if key not in self._flattened:
            self._flattened[key] = self._flatten(schemas)
        return self._flattened[key]

    def _flatten(self, schemas: Sequence[Schema]) -> _Branches:
        """Return schemas with all they consist of: what ``$ref``, ``allOf``, ``anyOf`` and ``oneOf`` lead to."""
        found: dict[int, Schema] = {}

        def collect(schema: Schema) -> None:
            schema = self._schemas.resolve(schema)
            if id(schema) in found:
                return
            found[id(schema)] = schema
            for keyword in ("allOf", "anyOf", "oneOf"):
                for branch in schema.get(keyword, ()):
                    collect(branch)

        for schema in schemas:
            collect(schema)
        return tuple(found.values())


def _is_integer(value: float) -> bool:
    return value.is_integer() and _MIN_INTEGER <= value <= _MAX_INTEGER


def _expects_integer(branches: _Branches) -> bool:
    """Whether one of the schemas wants an integer and none takes any number."""
    types = {kind for branch in branches for kind in _types(branch)}
    return "integer" in types and "number" not in types


def _types(schema: Schema) -> Iterator[str]:
    kind = schema.get("type", ())
    yield from [kind] if isinstance(kind, str) else kind
