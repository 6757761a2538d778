"""Closes objects whose properties are named: models otherwise invent further properties, often without end.

What is generated is valid either way. Objects that describe further properties in ``additionalProperties`` are left as
they are.
"""

from __future__ import annotations

from typing import Any

from llamafw_plugins.grammars.keywords import SCHEMA_KEYWORDS, SCHEMA_LIST_KEYWORDS, SCHEMA_MAP_KEYWORDS
from llamafw_plugins.grammars.references import find_edges, sort_topologically
from llamafw_plugins.grammars.schema_paths import SchemaPath, subschemas

_IN_PLACE = ("allOf", "anyOf", "oneOf")
_OBJECT_KEYWORDS = {
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
}


def close_objects(root: Any) -> Any:
    """Return a copy of an expanded schema in which ``additionalProperties`` is false wherever that is possible."""
    return _Closing(root).close(root, ())


class _Closing:
    """Closes the objects of one schema.

    Several schemas may apply to one object, through ``allOf``, ``$ref`` and others. Only the outermost of them can be
    closed, for the properties that any of them names; the inner ones stay open.
    """

    def __init__(self, root: Any) -> None:
        self.described: set[SchemaPath] = set()  # schemas that have ``properties``, or a part that has
        schemas, self.edges = dict(subschemas(root)), find_edges(root)
        order = sort_topologically(self.edges)  # each schema after its parts
        self.inner: set[SchemaPath] = set()
        self.names: dict[SchemaPath, dict[str, None] | None] = {}  # by path; None: the schema must stay open
        for path in order:
            self.names[path] = self._names_of(path, schemas.get(path, False))
        for path in reversed(order):
            if path in self.inner or not _only_forwards(schemas.get(path, False)):
                self.inner.update(self.edges.get(path, ()))

    def close(self, schema: Any, path: SchemaPath) -> Any:
        """Return a copy of the schema at ``path`` with closed objects."""
        if not isinstance(schema, dict):
            return schema

        closed = dict(schema)
        for keyword, value in schema.items():
            at = (*path, keyword)
            if keyword in SCHEMA_KEYWORDS:
                closed[keyword] = self.close(value, at)
            elif keyword in SCHEMA_LIST_KEYWORDS:
                closed[keyword] = [self.close(item, (*at, str(i))) for i, item in enumerate(value)]
            elif keyword in SCHEMA_MAP_KEYWORDS:
                closed[keyword] = {name: self.close(item, (*at, name)) for name, item in value.items()}

        names = self.names[path]
        if path in self.inner or _only_forwards(schema) or names is None or path not in self.described:
            return closed
        if schema.get("minProperties", 0) <= len(names):
            closed["properties"] = {**dict.fromkeys(names, {}), **closed.get("properties", {})}
            closed["additionalProperties"] = False
        return closed

    def _names_of(self, path: SchemaPath, schema: Any) -> dict[str, None] | None:
        """Return the properties that a schema and its parts name; None if others are described or counted."""
        if not isinstance(schema, dict):
            return {}
        if "additionalProperties" in schema or "patternProperties" in schema:
            return None
        names = dict.fromkeys((*schema.get("properties", ()), *schema.get("required", ())))
        for part in self.edges[path]:
            inner = self.names.get(part, {})
            if inner is None:
                return None
            names |= inner
        if "properties" in schema or any(part in self.described for part in self.edges[path]):
            self.described.add(path)
        return names


def _only_forwards(schema: Any) -> bool:
    """Return whether a schema only refers to others, of which one applies, so that these can be closed."""
    if not isinstance(schema, dict) or _OBJECT_KEYWORDS & schema.keys():
        return False
    given = [keyword for keyword in (*_IN_PLACE, "$ref") if keyword in schema]
    return len(given) == 1 and (given[0] != "allOf" or len(schema["allOf"]) == 1)
