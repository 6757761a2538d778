"""What depends on where ``$ref`` leads: loops without end, and whether the branches of ``oneOf`` exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from llamafw_plugins.grammars.places import Place, SchemaError, follow, subschemas

SAME = ("allOf", "anyOf", "oneOf")  # they hold for the same value as the schema that has them
MAX_PATTERNS = 8  # that one string is held to: the time to compile them doubles with each
MAX_STEPS, MAX_DEPTH = 10_000, 24  # when branches are compared
RANGES = {"number": ("minimum", "maximum"), "string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
Places = dict[Place, None]  # in order


def check(root: Any) -> None:
    """Raise SchemaError if a reference leads nowhere, or back to itself for the same value, or patterns are many."""
    places = dict(subschemas(root))
    anchors = {part["$anchor"]: place for place, part in places.items() if "$anchor" in part}
    edges: dict[Place, list[Place]] = {}
    for place, part in places.items():
        edges[place] = [(*place, keyword, str(i)) for keyword in SAME for i in range(len(part.get(keyword, ())))]
        if "$ref" in part:
            target = _target(part["$ref"], anchors)
            if target not in places and not _is_boolean(root, target):
                raise SchemaError(f"the reference {part['$ref']!r} leads nowhere within the schema", (*place, "$ref"))
            edges[place].append(target)
    _refuse_many_patterns(places, edges, _refuse_loops(edges))


def _refuse_many_patterns(places: dict[Place, dict[str, Any]], edges: dict[Place, list[Place]], order: Places) -> None:
    """Raise SchemaError if one string is held to many patterns, by itself or within what it is part of."""
    within = {  # schemas that have patterns for what is within their values
        place[:i]
        for place, part in places.items()
        if part.keys() & {"pattern", "format", "$ref"}
        for i, keyword in enumerate(place)
        if place[:i] in places and keyword not in SAME
    }
    patterns: dict[Place, int] = {}
    for place in order:
        n = len(places.get(place, {}).keys() & {"pattern", "format"}) + (place in within)
        either = {keyword: [0] for keyword in ("anyOf", "oneOf")}
        for at in edges.get(place, ()):
            found = either.get(at[-2]) if at[:-2] == place and len(at) > 1 else None
            if found is None:
                n += patterns.get(at, 0)
            else:
                found.append(patterns.get(at, 0))
        patterns[place] = n + sum(map(max, either.values()))
        if patterns[place] > MAX_PATTERNS:
            raise SchemaError(f"more than {MAX_PATTERNS} patterns for one value cannot be enforced", place)


def _target(reference: str, anchors: dict[str, Place]) -> Place:
    """Return the place that a reference names, or one that does not exist."""
    if not reference.startswith("#"):
        return ("$ref",)
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        return anchors.get(fragment, ("$ref",))
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in fragment.split("/")[1:])


def _is_boolean(root: Any, place: Place) -> bool:
    """Whether the schema at a place is true or false; true has become {}."""
    try:
        return follow(root, place) is False
    except (KeyError, IndexError, TypeError, ValueError):
        return False


def _refuse_loops(edges: dict[Place, list[Place]]) -> Places:
    """Return all places, each after those that it leads to."""
    done: Places = {}
    for start in edges:
        path: dict[Place, Iterator[Place]] = {start: iter(edges[start])} if start not in done else {}
        while path:
            last, left = next(reversed(path.items()))
            following = next(left, None)
            if following is None:
                done[last] = None
                del path[last]
            elif following in path:
                raise SchemaError("a schema that is valid where it is valid itself cannot be enforced", last)
            elif following not in done:
                path[following] = iter(edges.get(following, ()))
    return done


def check_one_of(branches: list[Any], root: Any, place: Place) -> None:
    """Raise SchemaError unless no value can be valid against two of the branches, so that oneOf means anyOf."""
    anchors = {part["$anchor"]: at for at, part in subschemas(root) if "$anchor" in part}
    compared = _Compared(root, anchors)
    for first, second in combinations(range(len(branches)), 2):
        if not compared.exclude(branches[first], branches[second]):
            message = f"oneOf cannot be enforced where branches {first} and {second} may both be valid; use anyOf"
            raise SchemaError(message, place)


class _Compared:
    """Compares schemas, as far as their types, values, bounds and required properties tell."""

    def __init__(self, root: Any, anchors: dict[str, Place]) -> None:
        self.root, self.anchors = root, anchors
        self.steps = self.depth = 0

    def exclude(self, a: Any, b: Any) -> bool:
        """Whether it is certain that no value is valid against both."""
        self.steps += 1
        if self.steps > MAX_STEPS or self.depth > MAX_DEPTH:
            return False
        self.depth += 1
        found = self._exclude(a, b)
        self.depth -= 1
        return found

    def _exclude(self, a: Any, b: Any) -> bool:
        if a is False or b is False:
            return True
        if not isinstance(a, dict) or not isinstance(b, dict):
            return False
        for one, other in ((a, b), (b, a)):
            if "$ref" in one and self.exclude(follow(self.root, _target(one["$ref"], self.anchors)), other):
                return True
            if any(self.exclude(part, other) for part in one.get("allOf", ())):
                return True
            for keyword in ("anyOf", "oneOf"):
                if keyword in one and all(self.exclude(part, other) for part in one[keyword]):
                    return True
        types = _types(a) & _types(b)
        return all(self._apart(kind, a, b) for kind in types)

    def _apart(self, kind: str, a: Any, b: Any) -> bool:
        """Whether no value of a type is valid against both, by what they say of this type themselves."""
        values = [[one for one in _values(part) if _type(one) == kind] for part in (a, b) if _values(part) is not None]
        if len(values) == 2:
            return not any(_same(x, y) for x in values[0] for y in values[1])
        if len(values) == 1 and not values[0]:
            return True
        if kind in RANGES:
            return _separate(a, b, *RANGES[kind]) or _separate(b, a, *RANGES[kind])
        return kind == "object" and self._objects(a, b)

    def _objects(self, a: Any, b: Any) -> bool:
        """Whether a property that one of them requires is of another kind in the other."""
        for name in {*a.get("required", ()), *b.get("required", ())}:
            if self.exclude(_property(a, name), _property(b, name)):
                return True
        return False


def _property(schema: Any, name: str) -> Any:
    """Return the schema of a property, or one that says less."""
    if name in schema.get("properties", ()):
        return schema["properties"][name]
    return {} if schema.get("patternProperties") else schema.get("additionalProperties", {})


def _types(schema: Any) -> set[str]:
    named = schema.get("type", ["null", "boolean", "number", "string", "array", "object"])
    return {"number" if one == "integer" else one for one in ([named] if isinstance(named, str) else named)}


def _values(schema: Any) -> list[Any]:
    found: list[Any] = [schema["const"]] if "const" in schema else schema.get("enum")
    return found


def _type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _same(a: Any, b: Any) -> bool:
    """Whether two values may be the same to JSON Schema; lists and objects are taken to be."""
    if isinstance(a, (list, dict)) or isinstance(b, (list, dict)):
        return _type(a) == _type(b)
    return bool(_type(a) == _type(b) and a == b)


def _separate(a: Any, b: Any, lower: str, upper: str) -> bool:
    """Whether the least of one is above the most of the other."""
    return lower in a and upper in b and bool(a[lower] > b[upper])
