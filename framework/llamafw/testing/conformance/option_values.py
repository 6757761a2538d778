"""Generate valid and invalid values of a sampler's options from their JSON Schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llamafw.types import JsonSchema

N_RANDOM_COMBINATIONS = 24


def valid_values(schema: JsonSchema) -> list[Any]:
    """Return the default, the bounds and a few values between them."""
    values: list[Any] = [schema["default"]]
    if "enum" in schema:
        values += schema["enum"]
    elif schema.get("type") in ("integer", "number"):
        values += _numbers(schema)
    elif schema.get("type") == "boolean":
        values += [False, True]
    elif schema.get("type") == "string":
        n = schema.get("minLength", 0)
        values += ["", "a" * n, "the\n"] if n < 4 and schema.get("maxLength", 4) >= 4 else ["a" * n]
    elif schema.get("type") == "array":
        items = valid_values({"default": None, **schema.get("items", {})})[1:]
        n = schema.get("minItems", 0)
        values += [items[:n], items[: min(len(items), schema.get("maxItems", 4))]] if len(items) >= n else []

    # True == 1, so booleans would be mistaken for numbers
    return [value for i, value in enumerate(values) if value not in values[:i] or isinstance(value, bool)]


def invalid_values(schema: JsonSchema) -> Iterator[Any]:
    """Yield a value of the wrong type and values just outside the bounds."""
    if "type" in schema and schema["type"] != "object":
        yield {"not": "this"}
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            yield schema[bound] + step


def combinations(options: Mapping[str, JsonSchema]) -> Iterator[dict[str, Any]]:
    """Yield the defaults, then each value of each option by itself, then random combinations from a fixed seed."""
    defaults = {field: schema["default"] for field, schema in options.items()}
    values = {field: valid_values(schema) for field, schema in options.items()}
    yield defaults

    for field, choices in values.items():
        for value in choices[1:]:
            yield {**defaults, field: value}

    rng = np.random.default_rng(0)
    for _ in range(N_RANDOM_COMBINATIONS if len(options) > 1 else 0):
        yield {field: choices[int(rng.integers(len(choices)))] for field, choices in values.items()}


def _numbers(schema: JsonSchema) -> list[Any]:
    """Return a number's bounds and some values between them, mostly from −2 to 2, where most options have an effect."""
    low, high = schema.get("minimum", -2), schema.get("maximum", 2)
    near_low, near_high = max(low, min(high, -2)), min(high, max(low, 2))
    if schema["type"] == "integer":
        further = [value for value in (5, 20) if low <= value <= high]
        return [low, high, *range(int(near_low), int(near_high) + 1), *further]
    between = [near_low + (near_high - near_low) * fraction for fraction in (0.1, 0.5, 0.9)]
    return [low, high, *between]
