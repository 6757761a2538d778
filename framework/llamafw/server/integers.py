"""Turn integral floats in request bodies into integers: some clients write every number as a float, 4 as ``4.0``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafw.server.schema import Schema, Schemas

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1  # what orjson reads as an integer


@dataclass(frozen=True, slots=True)
class _Place:
    """The schemas for one place in a body."""

    branches: tuple[Schema, ...]  # all schemas that may apply to a value there
    wants_integer: bool


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
        self._places: dict[tuple[int, ...], _Place] = {}  # by the ids of the schemas for this place
        self._root = self._place([schema])

    def read(self, body: Any) -> Any:
        """Return a copy of ``body``, valid or not, with integers instead of integral floats."""
        return self._read(body, self._root)

    def _read(self, value: Any, place: _Place) -> Any:
        if isinstance(value, float):
            return _to_integer(value) if place.wants_integer and _is_integer(value) else value
        if not place.branches:
            return value

        if isinstance(value, list):
            items = self._place([branch["items"] for branch in place.branches if "items" in branch])
            if not items.wants_integer:
                return [self._read(item, items) for item in value]
            # no call per item, because there may be a million token ids
            return [
                self._read(item, items)
                if not isinstance(item, float)
                else (_to_integer(item) if _is_integer(item) else item)
                for item in value
            ]

        if isinstance(value, dict):
            return {name: self._read(item, self._member(name, place)) for name, item in value.items()}
        return value

    def _member(self, name: str, place: _Place) -> _Place:
        """Return the place of an object's member."""
        members = [
            branch.get("properties", {}).get(name, branch.get("additionalProperties")) for branch in place.branches
        ]
        return self._place([member for member in members if isinstance(member, Mapping)])

    def _place(self, schemas: Sequence[Schema]) -> _Place:
        key = tuple(map(id, schemas))
        if key not in self._places:
            branches = self._flatten(schemas)
            types = {kind for branch in branches for kind in _types(branch)}
            self._places[key] = _Place(branches, "integer" in types and "number" not in types)
        return self._places[key]

    def _flatten(self, schemas: Sequence[Schema]) -> tuple[Schema, ...]:
        """Return the schemas and all schemas that their ``$ref``, ``allOf``, ``anyOf`` and ``oneOf`` lead to."""
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


def _to_integer(value: float) -> int:
    """Return an integral float as an integer.

    orjson reads integers below -2**63 as floats, the nearest of which is -2.0**63. So this float stands for a smaller
    integer.
    """
    return int(value) - (value == _MIN_INTEGER)


def _types(schema: Schema) -> Iterator[str]:
    """Yield the types in a schema's ``type``, which may be missing."""
    kind = schema.get("type", ())
    yield from [kind] if isinstance(kind, str) else kind
