"""Checks whether the branches of ``oneOf`` exclude each other; then it means ``anyOf`` and can be enforced."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from llamafw_plugins.grammars.references import find_anchors, target_path
from llamafw_plugins.grammars.schema_paths import SchemaError, SchemaPath, get_at

MAX_STEPS, MAX_DEPTH = 10_000, 24  # of a comparison; beyond them, branches count as overlapping
RANGES = {"number": ("minimum", "maximum"), "string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}


def check_branches(branches: list[Any], root: Any, path: SchemaPath) -> None:
    """Raise SchemaError if some value may be valid against two of the branches.

    Parameters
    ----------
    branches : list
        The schemas of the ``oneOf`` at ``path``.
    root : dict
        The whole schema, in which references are resolved.
    path : tuple of str
        The path for the error message.
    """
    comparison = _BranchComparison(root, find_anchors(root))
    for first, second in combinations(range(len(branches)), 2):
        if not comparison.are_disjoint(branches[first], branches[second]):
            message = f"'oneOf' cannot be enforced because branches {first} and {second} may both be valid; use 'anyOf'"
            raise SchemaError(message, path)


class _BranchComparison:
    """Compares schemas by their types, values, bounds and required properties.

    Other keywords are not considered.
    """

    def __init__(self, root: Any, anchors: dict[str, SchemaPath]) -> None:
        self.root, self.anchors = root, anchors
        self.steps = self.depth = 0

    def are_disjoint(self, a: Any, b: Any) -> bool:
        """Return whether it is certain that no value is valid against both schemas."""
        self.steps += 1
        if self.steps > MAX_STEPS or self.depth > MAX_DEPTH:
            return False
        self.depth += 1
        disjoint = self._are_disjoint(a, b)
        self.depth -= 1
        return disjoint

    def _are_disjoint(self, a: Any, b: Any) -> bool:
        if a is False or b is False:
            return True
        if not isinstance(a, dict) or not isinstance(b, dict):
            return False

        for one, other in ((a, b), (b, a)):
            if "$ref" in one and self.are_disjoint(get_at(self.root, target_path(one["$ref"], self.anchors)), other):
                return True
            if any(self.are_disjoint(part, other) for part in one.get("allOf", ())):
                return True
            for keyword in ("anyOf", "oneOf"):
                if keyword in one and all(self.are_disjoint(part, other) for part in one[keyword]):
                    return True
        return all(self._are_disjoint_for_type(name, a, b) for name in _types(a) & _types(b))

    def _are_disjoint_for_type(self, name: str, a: Any, b: Any) -> bool:
        """Return whether no value of one type is valid against both, without following references or subschemas."""
        listed = [
            [value for value in values if _type_of(value) == name]
            for values in (_values(a), _values(b))
            if values is not None
        ]
        if len(listed) == 2:
            return not any(_may_be_equal(x, y) for x in listed[0] for y in listed[1])
        if len(listed) == 1 and not listed[0]:
            return True
        if name in RANGES:
            return _is_above(a, b, *RANGES[name]) or _is_above(b, a, *RANGES[name])
        return name == "object" and self._have_disjoint_property(a, b)

    def _have_disjoint_property(self, a: Any, b: Any) -> bool:
        """Return whether ``a`` or ``b`` requires a property for which their schemas exclude each other."""
        for name in {*a.get("required", ()), *b.get("required", ())}:
            if self.are_disjoint(_property(a, name), _property(b, name)):
                return True
        return False


def _property(schema: Any, name: str) -> Any:
    """Return the schema of a property, or a weaker one."""
    if name in schema.get("properties", ()):
        return schema["properties"][name]
    return {} if schema.get("patternProperties") else schema.get("additionalProperties", {})


def _types(schema: Any) -> set[str]:
    types = schema.get("type", ["null", "boolean", "number", "string", "array", "object"])
    return {"number" if name == "integer" else name for name in ([types] if isinstance(types, str) else types)}


def _values(schema: Any) -> list[Any] | None:
    """Return the values that ``const`` or ``enum`` allow; None if the schema has neither."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _may_be_equal(a: Any, b: Any) -> bool:
    """Return whether JSON Schema may consider two values equal.

    The contents of arrays and objects are not compared.
    """
    if isinstance(a, (list, dict)) or isinstance(b, (list, dict)):
        return _type_of(a) == _type_of(b)
    return bool(_type_of(a) == _type_of(b) and a == b)


def _is_above(a: Any, b: Any, lower: str, upper: str) -> bool:
    """Return whether the lower bound of ``a`` is greater than the upper bound of ``b``."""
    return lower in a and upper in b and bool(a[lower] > b[upper])
