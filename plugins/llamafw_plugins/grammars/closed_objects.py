"""Closes objects whose properties are named: models otherwise invent further properties, often without end.

What is generated is valid either way. Objects that say what further properties may be, in ``additionalProperties``,
are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamafw_plugins.grammars.keywords import SCHEMA_KEYWORDS, SCHEMA_LIST_KEYWORDS, SCHEMA_MAP_KEYWORDS
from llamafw_plugins.grammars.references import find_anchors, target_path
from llamafw_plugins.grammars.schema_paths import SchemaPath, get_at, subschemas

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
    closing = _Closing(root)
    return closing.close(root, ())


class _Closing:
    """Closes the objects of one schema.

    Several schemas may apply to one object, through ``allOf``, ``$ref`` and others. Only the outermost of them can be
    closed, for the properties that any of them names; the inner ones stay open.
    """

    def __init__(self, root: Any) -> None:
        self.root, self.anchors = root, find_anchors(root)
        self.inner: set[SchemaPath] = set()
        for path, schema in subschemas(root):
            if not _only_forwards(schema):
                self.inner.update(self._parts(path, schema))

        waiting = list(self.inner)
        while waiting:  # the parts of inner schemas are inner too
            path = waiting.pop()
            found = set(self._parts(path, get_at(root, path))) - self.inner
            self.inner |= found
            waiting += found

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

        if path not in self.inner and not _only_forwards(schema):
            names = self._names(path, schema, frozenset())
            if names is not None and schema.get("minProperties", 0) <= len(names):
                closed["properties"] = {**dict.fromkeys(names, {}), **closed.get("properties", {})}
                closed["additionalProperties"] = False
        return closed

    def _parts(self, path: SchemaPath, schema: Any) -> Iterator[SchemaPath]:
        """Yield the paths of schemas that apply to the same value as ``schema``."""
        if not isinstance(schema, dict):
            return
        for keyword in _IN_PLACE:
            yield from ((*path, keyword, str(i)) for i in range(len(schema.get(keyword, ()))))
        if "$ref" in schema:
            yield target_path(schema["$ref"], self.anchors)

    def _names(self, path: SchemaPath, schema: Any, seen: frozenset[SchemaPath]) -> dict[str, None] | None:
        """Return the properties that a schema and its parts name; None if it must stay open."""
        if not isinstance(schema, dict) or path in seen:
            return {}
        if "additionalProperties" in schema or "patternProperties" in schema:
            return None
        names = dict.fromkeys((*schema.get("properties", ()), *schema.get("required", ())))
        is_named = "properties" in schema
        for part in self._parts(path, schema):
            found = self._names(part, get_at(self.root, part), seen | {path})
            if found is None:
                return None
            names |= found
            is_named = is_named or bool(found)
        return names if is_named else None if not seen else names


def _only_forwards(schema: Any) -> bool:
    """Return whether a schema only refers to others, of which one applies, so that these can be closed."""
    if not isinstance(schema, dict) or _OBJECT_KEYWORDS & schema.keys():
        return False
    given = [keyword for keyword in (*_IN_PLACE, "$ref") if keyword in schema]
    return len(given) == 1 and (given[0] != "allOf" or len(schema["allOf"]) == 1)
