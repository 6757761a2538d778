"""JSON Schema: what is enforced is enforced on any scores; what cannot be is refused and named."""
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from llamafw import GrammarContext, RequestError
from llamafw_plugins.grammars.compiler import Compiler
from support.toy import EOS

Language = Callable[[str, str], Callable[[str], bool]]
pytestmark = pytest.mark.inventory("G-02", "E-033", "C-095")
ADDRESS = {"type": "object", "properties": {"street": {"type": "string", "maxLength": 8}}, "required": ["street"]}

ENFORCED: dict[str, Any] = {
    "type": {"type": "integer"},
    "several types": {"type": ["string", "null"]},
    "enum": {"enum": [1, "a", None, {"b": [True]}]},
    "const": {"const": {"a": [1, "é"]}},
    "properties": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}}, "required": ["a"],
                   "additionalProperties": False},
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
    "patternProperties": {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}},
                          "additionalProperties": False},
    "minProperties": {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1},
    "items": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 3},
    "prefixItems": {"type": "array", "prefixItems": [{"const": 1}, {"const": "x"}], "items": False, "minItems": 2},
    "minLength": {"type": "string", "minLength": 2, "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^[a-c]{2}[0-9]$"},
    "unanchored pattern": {"type": "string", "pattern": "b[0-9]", "maxLength": 8},
    "pattern and length": {"type": "string", "pattern": "^[ab]+$", "minLength": 3, "maxLength": 5},
    "minimum": {"type": "integer", "minimum": 7, "maximum": 13},
    "exclusiveMinimum": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "multipleOf": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "anyOf": {"anyOf": [{"const": "a"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    "oneOf": {"oneOf": [{"const": "a"}, {"const": 1}]},
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
    "$ref": {"$defs": {"n": {"enum": [4, 5]}}, "type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 2},
    "definitions": {"definitions": {"a": ADDRESS}, "$ref": "#/definitions/a"},
    "recursive $ref": {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
        {"const": 0}, {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 1}]}}},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "email": {"type": "string", "format": "email"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "uri": {"type": "string", "format": "uri"},
}
REFUSED: dict[str, tuple[Any, str | None]] = {
    "not": ({"not": {"type": "string"}}, "not"),
    "nested not": ({"properties": {"a": {"items": {"not": {}}}}}, "properties.a.items.not"),
    "if": ({"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
    "minProperties": ({"type": "object", "minProperties": 2}, "minProperties"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "contains": ({"type": "array", "contains": {"type": "string"}}, "contains"),
    "propertyNames": ({"propertyNames": {"pattern": "^a"}}, "propertyNames"),
    "dependentRequired": ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependentSchemas": ({"dependentSchemas": {"a": {}}}, "dependentSchemas"),
    "unevaluatedProperties": ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    "$dynamicRef": ({"$dynamicRef": "#x"}, "$dynamicRef"),
    "remote $ref": ({"$ref": "http://example.org/schema"}, "$ref"),
    "missing $ref": ({"$ref": "#/$defs/a"}, None),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, None),
    "unknown format": ({"type": "string", "format": "isbn"}, None),
    "unknown type": ({"type": "strng"}, None),
    "draft 4 bound": ({"type": "number", "minimum": 1, "exclusiveMinimum": True}, "exclusiveMinimum"),
    "overlapping oneOf": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, None),
    "false": (False, None),
    "nothing is valid": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, None),
    "a way to be lenient": ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
    "no schema": ([], None),
    "too deep": ({"items": json.loads('{"items":' * 200 + "{}" + "}" * 200)}, None),
}


def say(compiler: Compiler, schema: Any, seed: int, n_most: int = 400) -> str | None:
    """Return what a model of random scores says under the schema; None if it does not come to an end."""
    grammar, random, said = compiler.compile(json.dumps(schema)), np.random.default_rng(seed), bytearray()
    for _ in range(n_most):
        if grammar.ended:
            return said.decode("utf-8")
        row = random.standard_normal(264).astype(np.float32)
        row[32:127] += 2  # letters, so that strings are not all escapes
        row[[34, 44, 93, 125]] += 2.5  # what ends strings, arrays and objects
        row[EOS] += 6
        row[259:] = -np.inf
        grammar.mask(row)
        token = int(row.argmax())
        assert row[token] > -np.inf
        assert grammar.accept(token)
        if token == EOS:
            return said.decode("utf-8")
        said.append(token)
    return None


@pytest.fixture(scope="session")
def compiler(context: GrammarContext) -> Compiler:
    return Compiler("json_schema", context)


@pytest.mark.parametrize("name", ENFORCED)
def test_whatever_is_said_is_valid(compiler: Compiler, name: str) -> None:
    schema = ENFORCED[name]
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    said = [text for seed in range(12) if (text := say(compiler, schema, seed)) is not None]
    assert said, "no answer came to its end"
    for text in said:
        validator.validate(json.loads(text))


VALID: dict[str, list[Any]] = {
    "type": [0, -12, 10**12],
    "several types": ["", "é\n", None],
    "enum": [1, "a", None, {"b": [True]}],
    "const": [{"a": [1, "é"]}],
    "properties": [{"a": 1}, {"a": 1, "b": None}],
    "additionalProperties": [{}, {"x": True, "y": False, "": True}],
    "patternProperties": [{}, {"x1": 1, "x9": 2}],
    "items": [[1], [2, 1, 2]],
    "prefixItems": [[1, "x"]],
    "minLength": ["ab", "éèêë", "❤❤"],
    "pattern": ["ab7"],
    "unanchored pattern": ["b1", "xxb2yy"],
    "minimum": [7, 10, 13],
    "multipleOf": [0, 5, 100],
    "anyOf": ["a", 0, 9],
    "allOf": [3, 5],
    "definitions": [{"street": "Elm"}],
    "recursive $ref": [0, [0], [[[0]]]],
    "date": ["2024-02-29"],
    "time": ["23:59:60Z", "12:00:00.5+02:00"],
    "date-time": ["2024-02-29T12:00:00Z"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "email": ["a.b@example.org"],
    "ipv4": ["127.0.0.1", "255.255.255.255"],
    "ipv6": ["::1", "2001:db8::8a2e:370:7334"],
    "uri": ["https://example.org/a?b=c#d", "urn:x:y"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VALID.items() for value in values])
def test_whatever_is_valid_can_be_said(language: Language, name: str, value: Any) -> None:
    jsonschema.validate(value, ENFORCED[name])
    assert language("json_schema", json.dumps(ENFORCED[name]))(json.dumps(value, ensure_ascii=False))


def test_a_name_cannot_come_again_as_another_property(language: Language) -> None:
    matches = language("json_schema", json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}}))
    assert matches('{"a":1,"b":"x"}')
    assert not matches('{"a":1,"a":"x"}')
    assert not matches('{"b":1,"a":"x"}')


@pytest.mark.inventory("G-04")
def test_properties_come_in_the_order_of_the_schema(language: Language) -> None:
    matches = language("json_schema", json.dumps({"type": "object", "properties": {"b": {}, "a": {}}}))
    assert matches('{"b":1,"a":2}')
    assert matches('{"a":2}')
    assert not matches('{"a":2,"b":1}')


@pytest.mark.inventory("G-03", "J-02")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused(compiler: Compiler, name: str) -> None:
    schema, place = REFUSED[name]
    with pytest.raises(RequestError) as caught:
        compiler.compile(json.dumps(schema))
    assert caught.value.param == place


def test_comments_are_no_keywords(language: Language) -> None:
    comments = {"title": "t", "description": "d", "default": 1, "examples": [1], "$comment": "c", "deprecated": True,
                "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x", "uniqueItems": False}
    assert language("json_schema", json.dumps({"type": "integer", **comments}))("7")


def test_a_property_may_be_called_like_a_keyword(language: Language) -> None:
    schema = {"type": "object", "properties": {"not": {"type": "null"}}}
    assert language("json_schema", json.dumps(schema))('{"not":null}')


def test_white_space_ends(language: Language) -> None:
    matches = language("json_schema", json.dumps({"type": "object"}))
    assert matches('{\n  "a": [1, 2]\n}')
    assert not matches("{" + " " * 40 + "}")
