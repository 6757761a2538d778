"""Checks ``$ref`` in JSON Schemas: targets must exist, must not loop, and must not combine too many patterns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from llamafw_plugins.grammars.schema_paths import SchemaError, SchemaPath, get_at, subschemas

IN_PLACE = ("allOf", "anyOf", "oneOf")  # their branches apply to the same value as the schema that has the keyword
MAX_PATTERNS = 8  # for one string; each further pattern doubles the time to compile them
NOWHERE: SchemaPath = ("$ref",)  # a path at which there is never a schema

Edges = dict[SchemaPath, list[SchemaPath]]
"""For each subschema, the subschemas that apply to the same value."""


def check_references(root: Any) -> None:
    """Raise SchemaError if a reference has no target, leads back to itself, or if there are too many patterns.

    Parameters
    ----------
    root : dict
        A valid schema without annotations.
    """
    schemas = dict(subschemas(root))
    edges = find_edges(root)
    for path, schema in schemas.items():
        if "$ref" in schema and edges[path][-1] not in schemas and not _is_false(root, edges[path][-1]):
            message = f"the reference {schema['$ref']!r:.80} does not point to a subschema of this schema"
            raise SchemaError(message, (*path, "$ref"))
    _check_pattern_count(schemas, edges, sort_topologically(edges))


def find_edges(root: Any) -> Edges:
    """Return which subschemas apply to the same value as each one; the target of ``$ref`` comes last."""
    anchors, edges = find_anchors(root), {}
    for path, schema in subschemas(root):
        edges[path] = [(*path, keyword, str(i)) for keyword in IN_PLACE for i in range(len(schema.get(keyword, ())))]
        if "$ref" in schema:
            edges[path].append(target_path(schema["$ref"], anchors))
    return edges


def find_anchors(root: Any) -> dict[str, SchemaPath]:
    """Return the paths of all subschemas with an ``$anchor``, by its name."""
    return {schema["$anchor"]: path for path, schema in subschemas(root) if "$anchor" in schema}


def target_path(reference: str, anchors: dict[str, SchemaPath]) -> SchemaPath:
    """Return the path that a ``$ref`` points to, or `NOWHERE`; the path need not exist."""
    if not reference.startswith("#"):
        return NOWHERE
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        return anchors.get(fragment, NOWHERE)
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in fragment.split("/")[1:])


def _is_false(root: Any, path: SchemaPath) -> bool:
    """Return whether the schema at ``path`` is false.

    (Schemas that were true are {} by now.)
    """
    try:
        return get_at(root, path) is False
    except (KeyError, IndexError, TypeError, ValueError):
        return False


def sort_topologically(edges: Edges) -> list[SchemaPath]:
    """Return all paths, each one after the paths that its edges lead to; SchemaError if there is a cycle."""
    done: dict[SchemaPath, None] = {}  # in order
    for start in edges:
        stack: dict[SchemaPath, Iterator[SchemaPath]] = {start: iter(edges[start])} if start not in done else {}
        while stack:  # depth first, without recursion
            path, remaining = next(reversed(stack.items()))
            following = next(remaining, None)
            if following is None:
                done[path] = None
                del stack[path]
            elif following in stack:
                raise SchemaError("a schema that refers to itself for the same value cannot be enforced", path)
            elif following not in done:
                stack[following] = iter(edges.get(following, ()))
    return list(done)


def _check_pattern_count(
    schemas: dict[SchemaPath, dict[str, Any]], edges: Edges, sorted_paths: list[SchemaPath]
) -> None:
    """Raise SchemaError if too many patterns apply to one value, or to values within it.

    Branches of ``anyOf`` and ``oneOf`` are alternatives, so only the branch with the most patterns counts.
    """
    with_inner_patterns = {  # schemas with patterns for values inside theirs
        path[:i]
        for path, schema in schemas.items()
        if schema.keys() & {"pattern", "format", "$ref"}
        for i, keyword in enumerate(path)
        if path[:i] in schemas and keyword not in IN_PLACE
    }

    n_patterns: dict[SchemaPath, int] = {}
    for path in sorted_paths:
        n = len(schemas.get(path, {}).keys() & {"pattern", "format"}) + (path in with_inner_patterns)
        branches = {keyword: [0] for keyword in ("anyOf", "oneOf")}
        for target in edges.get(path, ()):
            counts = branches.get(target[-2]) if target[:-2] == path and len(target) > 1 else None
            if counts is None:
                n += n_patterns.get(target, 0)
            else:
                counts.append(n_patterns.get(target, 0))

        n_patterns[path] = n + sum(map(max, branches.values()))
        if n_patterns[path] > MAX_PATTERNS:
            raise SchemaError(f"more than {MAX_PATTERNS} patterns for one value cannot be enforced", path)
