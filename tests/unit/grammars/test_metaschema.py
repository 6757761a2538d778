"""An error about a schema that is not a JSON Schema names the keyword, its value and what it must be."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw_plugins.grammars.json_schema import to_llguidance
from llamafw_plugins.grammars.keywords import ENFORCED
from llamafw_plugins.grammars.metaschema import EXPECTED
from llamafw_plugins.grammars.schema_paths import SchemaError

TYPES = "'array', 'boolean', 'integer', 'null', 'number', 'object' or 'string', or an array of several of them"


@pytest.mark.parametrize(
    ("schema", "message", "path"),
    [
        ({"type": "strin"}, f"'type' must be {TYPES}, not 'strin'", "type"),
        ({"type": ["string", "strin"]}, f"'type' must be {TYPES}, not ['string', 'strin']", "type"),
        ({"type": []}, f"'type' must be {TYPES}, not []", "type"),
        ({"items": {"type": 5}}, f"'type' must be {TYPES}, not 5", "items.type"),
        ({"items": 5}, "'items' must be an object, true or false, not 5", "items"),
        ({"properties": 5}, "'properties' must be an object with schemas as values, not 5", "properties"),
        ({"properties": {"type": 5}}, "a schema must be an object, true or false, not 5", "properties.type"),
        ({"anyOf": [{}, 5]}, "a schema must be an object, true or false, not 5", "anyOf.1"),
        ({"anyOf": []}, "'anyOf' must be an array of at least one schema, not []", "anyOf"),
        ({"required": "a"}, "'required' must be an array of different strings, not 'a'", "required"),
        ({"required": ["a", 5]}, "'required' must be an array of different strings, not ['a', 5]", "required.1"),
        ({"required": ["a", "a"]}, "'required' must be an array of different strings, not ['a', 'a']", "required"),
        ({"minLength": -1}, "'minLength' must be an integer of at least 0, not -1", "minLength"),
        ({"maxItems": 1.5}, "'maxItems' must be an integer of at least 0, not 1.5", "maxItems"),
        ({"minimum": "1"}, "'minimum' must be a number, not '1'", "minimum"),
        ({"multipleOf": 0}, "'multipleOf' must be a number greater than 0, not 0", "multipleOf"),
        ({"enum": 5}, "'enum' must be an array, not 5", "enum"),
        ({"pattern": 5}, "'pattern' must be a string, not 5", "pattern"),
    ],
    ids=str,
)
def test_invalid_keyword_values_are_described(schema: Any, message: str, path: str) -> None:
    with pytest.raises(SchemaError) as caught:
        to_llguidance(schema)
    assert str(caught.value) == message
    assert ".".join(caught.value.path) == path


@pytest.mark.parametrize("keyword", sorted(ENFORCED - {"const"}))
def test_each_keyword_with_a_wrong_value_is_named(keyword: str) -> None:
    with pytest.raises(SchemaError) as caught:
        to_llguidance({keyword: None})
    assert str(caught.value) == f"{keyword!r} must be {EXPECTED[keyword]}, not None"
