"""Schemas that Pydantic, Zod and FastAPI write are enforced; responses under them are valid and read by the library."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
from pydantic import BaseModel, Field

from llamafw import RequestError
from llamafw_plugins.grammars.closed_objects import close_objects
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.schemas import AdversarialLogits, generate, parse_and_validate

N_RESPONSES = 8


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str
    friends: list[Dog | Cat] = []


PYDANTIC: dict[str, Any] = {
    "decimal": decimal.Decimal,
    "bounded decimal": Annotated[decimal.Decimal, Field(ge=0, max_digits=6, decimal_places=2)],
    "bytes": bytes,
    "set of an enum": set[Color],
    "frozenset of literals": frozenset[Literal[1, 2, "a"]],
    "set of booleans": Annotated[set[bool], Field(min_length=1)],
    "set of one": Annotated[set[str], Field(max_length=1)],
    "path": pathlib.Path,
    "secret": pydantic.SecretStr,
    "discriminated union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "optional union": Annotated[Cat | Dog, Field(discriminator="kind")] | None,
    "dict with enum keys": dict[Color, int],
    "dict with literal keys": dict[Literal["x", "y"], bool],
    "dict with whole keys": dict[int, str],
    "dict with dates": dict[datetime.date, int],
    "dict with short keys": dict[Annotated[str, Field(min_length=1, max_length=5)], None],
    "dict with a pattern": dict[Annotated[str, Field(pattern="^a+$")], int],
    "url": pydantic.HttpUrl,
    "address": ipaddress.IPv4Address,
    "any address": ipaddress.IPv4Address | ipaddress.IPv6Address,
    "network": ipaddress.IPv4Network,
    "timedelta": datetime.timedelta,
    "uuid4": pydantic.UUID4,
    "base64": pydantic.Base64Str,
    "date": datetime.date,
    "tuple": tuple[int, str],
    "optional": int | None,
    "size": pydantic.ByteSize,
}


def responses(compiler: LlguidanceCompiler, schema: Any) -> Iterator[bytes]:
    """Yield complete random responses under a schema."""
    for seed in range(N_RESPONSES):
        grammar = compiler.compile(json.dumps(schema))
        text = generate(
            grammar,
            AdversarialLogits(schema, seed).row,
            compiler.context.tokenizer.piece,
            compiler.context.tokenizer.eog,
        )
        if text is not None:
            yield text


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize("name", PYDANTIC)
def test_types_of_pydantic_are_enforced(compiler: LlguidanceCompiler, name: str, mode: Any) -> None:
    model = pydantic.create_model("Model", value=(PYDANTIC[name], ...), other=(str | None, None))
    schema = model.model_json_schema(mode=mode)
    found = list(responses(compiler, schema))
    assert found
    for text in found:
        assert set(parse_and_validate(schema, text)) <= {"value", "other"}


@pytest.mark.parametrize("name", ["path", "set of an enum", "discriminated union", "dict with enum keys", "uuid4"])
def test_pydantic_reads_the_responses(compiler: LlguidanceCompiler, name: str) -> None:
    adapter = pydantic.TypeAdapter(PYDANTIC[name])
    assert [adapter.validate_json(text) for text in responses(compiler, adapter.json_schema())]


def test_sets_without_few_values_are_refused(compiler: LlguidanceCompiler) -> None:
    model = pydantic.create_model("Model", words=(set[str], ...))
    with pytest.raises(RequestError, match="'uniqueItems' can be enforced for arrays of values in an 'enum'") as caught:
        compiler.compile(json.dumps(model.model_json_schema()))
    assert caught.value.param == "properties.words.uniqueItems"


DRAFT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
CLOSED = {"type": "object", "additionalProperties": False}
EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
DURATION = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
ZOD: dict[str, Any] = {
    "record": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}},
    "record of an enum": {
        "type": "object",
        "propertyNames": {"type": "string", "enum": ["a", "b"]},
        "additionalProperties": {"type": "boolean"},
        "required": ["a", "b"],
    },
    "partial record": {
        "type": "object",
        "propertyNames": {"type": "string", "enum": ["a", "b"]},
        "additionalProperties": {"type": "null"},
    },
    "record with a pattern": {
        "type": "object",
        "propertyNames": {"type": "string", "pattern": "^id_"},
        "additionalProperties": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    },
    "union": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
    "discriminated union": {
        "oneOf": [
            CLOSED
            | {"properties": {"t": {"type": "string", "const": "a"}, "x": {"type": "number"}}, "required": ["t", "x"]},
            CLOSED | {"properties": {"t": {"type": "string", "const": "b"}}, "required": ["t"]},
        ]
    },
    "enum": {"type": "string", "enum": ["one", "two"]},
    "date": {"type": "string", "format": "date-time"},
    "email": {"type": "string", "format": "email", "pattern": EMAIL},
    "duration": {"type": "string", "format": "duration", "pattern": DURATION},
    "cuid": {"type": "string", "format": "cuid", "pattern": "^[cC][0-9a-z]{6,}$"},
    "jwt": {"type": "string", "format": "jwt"},
    "base64": {
        "type": "string",
        "format": "base64",
        "contentEncoding": "base64",
        "pattern": "^$|^(?:[0-9a-zA-Z+/]{4})*(?:(?:[0-9a-zA-Z+/]{2}==)|(?:[0-9a-zA-Z+/]{3}=))?$",
    },
    "file": {"type": "string", "format": "binary", "contentEncoding": "binary"},
    "never": CLOSED | {"properties": {"a": {"not": {}}, "b": {"type": "string"}}, "required": ["b"]},
    "any": {},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "number"}},
}
OPENAPI: dict[str, Any] = {
    "decimal of Pydantic 2.12": {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
    "bounded decimal of Pydantic 2.12": {
        "type": "string",
        "pattern": r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,4}|(?=[\d.]{1,7}0*$)\d{0,4}\.\d{0,2}0*$)",
    },
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64", "minimum": 0},
    "uint8": {"type": ["integer", "null"], "format": "uint8"},
    "double": {"type": "number", "format": "double", "example": 1.5},
    "nullable": {"type": "string", "nullable": True, "maxLength": 3},
    "byte": {"type": "string", "format": "byte"},
    "annotations": {
        "type": "object",
        "properties": {"a": {"type": "boolean", "example": True, "xml": {"attribute": True}, "x-order": 1}},
        "externalDocs": {"url": "https://example.org"},
        "required": ["a"],
        "markdownDescription": "**a**",
    },
    "nothing": {
        "type": "array",
        "contains": {"type": "string"},
        "minContains": 0,
        "items": {"type": "integer", "not": False},
        "uniqueItems": False,
        "maxItems": 2,
    },
    "inheritance": {
        "allOf": [
            {"$ref": "#/definitions/Base"},
            {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ],
        "definitions": {"Base": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}},
    },
}


@pytest.mark.parametrize(("name", "schema"), [*ZOD.items(), *OPENAPI.items()])
def test_schemas_of_zod_and_openapi_are_enforced(compiler: LlguidanceCompiler, name: str, schema: Any) -> None:
    if name in ZOD:
        schema = {**DRAFT, **schema}
    found = list(responses(compiler, schema))
    assert found
    for text in found:
        parse_and_validate(schema, text)


@pytest.mark.parametrize(
    ("schema", "allowed", "refused"),
    [
        (OPENAPI["int32"], ["2147483647", "-2147483648"], ["2147483648"]),
        (ZOD["record of an enum"], ['{"a": true, "b": false}'], ['{"a": true}', '{"a": true, "b": true, "c": true}']),
        (ZOD["partial record"], ["{}", '{"b": null}'], ['{"c": null}', '{"b": 1}']),
        (ZOD["record with a pattern"], ['{"id_1": 3}'], ['{"x": 3}']),
        (ZOD["email"], ['"a.b@example.org"'], ['".a@example.org"', '"a..b@example.org"']),
        (ZOD["never"], ['{"b": ""}'], ['{"a": 1, "b": ""}']),
        ({"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True}, ["[]", "[2, 1]", "[3,1,2]"], ["[1,1]"]),
        ({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 2}, ["[2,1]"], ["[1]", "[]"]),
    ],
)
def test_keywords_of_libraries_restrict_the_response(
    language: Callable[[str, str], Callable[[str], bool]], schema: Any, allowed: list[str], refused: list[str]
) -> None:
    matches = language("json_schema", json.dumps(schema))
    assert [text for text in allowed if not matches(text)] == []
    assert [text for text in refused if matches(text)] == []


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"propertyNames": {"pattern": "^a"}, "properties": {"a": {}}}, "propertyNames"),
        ({"propertyNames": {"minLength": 1, "pattern": "^a"}}, "propertyNames"),
        ({"propertyNames": {"format": "email"}}, "propertyNames.format"),
        ({"propertyNames": {"enum": ["a"], "maxLength": 3}}, "propertyNames"),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1]}, "minItems": 2}, "minItems"),
        ({"uniqueItems": True, "items": {"enum": [1]}}, "uniqueItems"),
        ({"uniqueItems": 1}, "uniqueItems"),
        ({"contentEncoding": "quoted-printable"}, "format"),
        ({"contentMediaType": "application/json"}, "contentMediaType"),
        (
            {
                "properties": {
                    "a": {"type": "array", "uniqueItems": True, "items": {"const": 1}},
                    "b": {"$ref": "#/properties/a/items"},
                }
            },
            "properties.b.$ref",
        ),
    ],
)
def test_other_uses_of_these_keywords_are_refused(compiler: LlguidanceCompiler, schema: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        compiler.compile(json.dumps({"type": "object", **schema}))
    assert str(caught.value.param).endswith(param)


def test_values_that_look_like_unions_are_not_changed(language: Callable[[str, str], Callable[[str], bool]]) -> None:
    value = {"discriminator": {"propertyName": "k"}, "oneOf": [{"properties": {"k": 1}}]}
    assert language("json_schema", json.dumps({"const": value}))(json.dumps(value))


def test_many_references_are_quick(compiler: LlguidanceCompiler) -> None:
    """Each definition refers to the next one twice."""
    definitions: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}], "anyOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(40)
    }
    definitions["d40"] = {"type": "object", "properties": {"a": {"type": "null"}}}
    closed = close_objects({"$ref": "#/$defs/d0", "$defs": definitions})
    assert "additionalProperties" not in closed["$defs"]["d40"]
    assert closed["$defs"]["d0"]["additionalProperties"] is False


def test_large_sets_have_the_order_of_the_schema(language: Callable[[str, str], Callable[[str], bool]]) -> None:
    schema = {"type": "array", "items": {"enum": list(range(8))}, "uniqueItems": True}
    matches = language("json_schema", json.dumps(schema))
    assert matches("[0, 3, 7]")
    assert not matches("[3, 0]")
    with pytest.raises(RequestError, match="with 12 values cannot be enforced"):
        language("json_schema", json.dumps({**schema, "items": {"enum": list(range(12))}}))("[]")


A = {"type": "object", "properties": {"a": {"type": "integer"}}}
REF = {"$ref": "#/$defs/A"}


@pytest.mark.parametrize(
    ("schema", "allowed", "refused"),
    [
        (A, ["{}", '{"a": 1}'], ['{"b": 1}', '{"a": 1, "b": 1}']),
        ({**A, "additionalProperties": True}, ['{"a": 1, "b": 1}'], []),
        ({**A, "additionalProperties": {"type": "null"}}, ['{"a": 1, "b": null}'], ['{"b": 1}']),
        ({"type": "object"}, ['{"b": 1}'], []),
        ({"type": "object", "properties": {}}, ["{}"], ['{"b": 1}']),
        ({**A, "required": ["b"]}, ['{"a": 1, "b": []}', '{"b": 2}'], ['{"a": 1}', '{"b": 1, "c": 1}']),
        ({**A, "patternProperties": {"^x": {}}}, ['{"a": 1, "x1": 2}', '{"b": 1}'], []),
        ({"anyOf": [A, {"type": "null"}]}, ["null", '{"a": 1}'], ['{"b": 1}']),
        ({"type": "array", "items": A}, ['[{"a": 1}]'], ['[{"b": 1}]']),
        ({"$defs": {"A": A}, "properties": {"x": REF}}, ['{"x": {"a": 1}}'], ['{"x": {"b": 1}}', '{"y": 1}']),
        ({"$defs": {"A": A}, "allOf": [REF]}, ['{"a": 1}'], ['{"b": 1}']),
        (
            {"$defs": {"A": A}, "type": "object", "allOf": [REF, {"properties": {"b": {"const": 2}}}]},
            ['{"a": 1, "b": 2}', '{"b": 2}'],
            ['{"c": 1}', '{"b": 1}'],
        ),
        (
            {**A, "anyOf": [{"properties": {"b": {"const": 2}}, "required": ["b"]}, {"required": ["a"]}]},
            ['{"a": 1, "b": 2}', '{"a": 1}'],
            ['{"a": 1, "c": 1}'],
        ),
        ({"allOf": [A, {"type": "object", "additionalProperties": True}]}, ['{"a": 1, "b": 1}'], []),
        ({"type": ["object", "string"], "properties": {"a": {}}}, ['"x"', '{"a": 1}'], ['{"b": 1}']),
        ({**A, "minProperties": 1, "properties": {}}, ['{"x": 1}'], ["{}"]),
    ],
)
def test_objects_that_name_properties_are_closed(
    language: Callable[[str, str], Callable[[str], bool]], schema: Any, allowed: list[str], refused: list[str]
) -> None:
    """What is allowed is valid, and what is refused is allowed by the schema or not valid."""
    matches = language("json_schema", json.dumps(schema))
    assert [text for text in allowed if not matches(text)] == []
    assert [text for text in refused if matches(text)] == []
    for text in allowed:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("text", ['{"a": 1, "b": [1, 2]}', '{"a":1,"b":[1,2]}', '{ "a": 1, "b": [] }'])
def test_white_space_is_that_of_one_line(language: Callable[[str, str], Callable[[str], bool]], text: str) -> None:
    matches = language("json_schema", '{"type": "object"}')
    assert matches(text)
    assert not matches(text.replace(" ", "\n") if " " in text else text.replace(",", ",  "))
