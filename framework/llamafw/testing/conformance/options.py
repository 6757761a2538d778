"""Values that a sampler's options may have, and values that they must not, from their JSON Schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llamafw.types import JsonSchema


def allowed(schema: JsonSchema) -> list[Any]:
    """Return the default, the bounds, and a few values between them."""
    found: list[Any] = [schema["default"]]
    if "enum" in schema:
        found += schema["enum"]
    elif schema.get("type") in ("integer", "number"):
        found += _numbers(schema)
    elif schema.get("type") == "boolean":
        found += [False, True]
    elif schema.get("type") == "string":
        n = schema.get("minLength", 0)
        found += ["", "a" * n, "the\n"] if n < 4 and schema.get("maxLength", 4) >= 4 else ["a" * n]
    elif schema.get("type") == "array":
        items = allowed({"default": None, **schema.get("items", {})})[1:]
        n = schema.get("minItems", 0)
        found += [items[:n], items[: min(len(items), schema.get("maxItems", 4))]] if len(items) >= n else []
    return [value for i, value in enumerate(found) if value not in found[:i] or isinstance(value, bool)]


def refused(schema: JsonSchema) -> Iterator[Any]:
    """Yield values of the wrong type, and beyond the bounds."""
    if "type" in schema and schema["type"] != "object":
        yield {"not": "this"}
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            yield schema[bound] + step


def combinations(options: Mapping[str, JsonSchema], n: int = 24) -> Iterator[dict[str, Any]]:
    """Yield the defaults, each value of each option alone, and ``n`` combinations at random, always the same."""
    defaults = {field: schema["default"] for field, schema in options.items()}
    values = {field: allowed(schema) for field, schema in options.items()}
    yield defaults
    for field, some in values.items():
        for value in some[1:]:
            yield {**defaults, field: value}
    rng = np.random.default_rng(0)
    for _ in range(n if len(options) > 1 else 0):
        yield {field: some[int(rng.integers(len(some)))] for field, some in values.items()}


def _numbers(schema: JsonSchema) -> list[Any]:
    """Return a number's bounds and some within them; far bounds are replaced by near ones."""
    low, high = schema.get("minimum", -2), schema.get("maximum", 2)
    near, far = max(low, min(high, -2)), min(high, max(low, 2))  # where most options do something
    between: list[float] = [near + (far - near) * part for part in (0.1, 0.5, 0.9)]
    if schema["type"] == "integer":
        return [low, high, *range(int(near), int(far) + 1), *(value for value in (5, 20) if low <= value <= high)]
    return [low, high, *between]
