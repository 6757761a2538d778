"""JSON Schema, keyword by keyword: what is enforced lets valid values through and nothing else; the rest is refused."""

from __future__ import annotations

import json
import operator
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafw import RequestError
from llamafw_plugins.grammars.compiler import Compiler
from support.json_schema import (
    COMMENTS,
    ENFORCED,
    FORMATS,
    OTHER_FORMATS,
    REFUSED,
    VOCABULARIES,
    Case,
    accepts,
    accepts_text,
    keywords,
    place,
    state,
)
from support.schemas import Adversary, check, say

pytestmark = pytest.mark.inventory("G-02", "E-033", "C-095")
CASES = [(name, one) for name, cases in ENFORCED.items() for one in cases]
CASES += [(name, Case({"format": name, "type": "string"}, one.valid, one.invalid)) for name, one in FORMATS.items()]
KEYWORDS = [keyword for vocabulary in VOCABULARIES for keyword in keywords(vocabulary)]
STRICTER = ["2024-06-30T23:59:60Z", "23:59:60Z", "a@", "@b", "a..b@example.org"]
"""What we do not allow, though the standard or the packages that check it do."""


def test_every_keyword_of_the_draft_is_in_one_table() -> None:
    tables = [*ENFORCED, *REFUSED, *COMMENTS]
    assert sorted(tables) == sorted(KEYWORDS)
    assert len(KEYWORDS) > 50


@pytest.mark.inventory("G-03", "J-02")
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_keyword_is_enforced_refused_or_a_comment(compiler: Compiler, keyword: str) -> None:
    what, _, _ = state(compiler, keyword)
    assert (what == "enforced") is (keyword in ENFORCED)


@pytest.mark.parametrize(("name", "one"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_said_at_random_is_valid(compiler: Compiler, name: str, one: Case) -> None:
    assert all(is_valid(one.schema, value) for value in one.valid)
    assert not any(is_valid(one.schema, value) for value in one.invalid if value not in STRICTER)
    ended = 0
    for seed in range(12):
        grammar = compiler.compile(json.dumps(one.schema))
        tokenizer = compiler.context.tokenizer
        text = say(grammar, Adversary(one.schema, seed).row, tokenizer.piece, tokenizer.eog)
        if text is not None:
            check(one.schema, text)
            ended += 1
    assert ended


def is_valid(schema: Any, value: Any) -> bool:
    try:
        check(schema, json.dumps(value).encode())
    except jsonschema.ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_of_the_table(compiler: Compiler, name: str) -> None:
    one = FORMATS[name]
    assert all(accepts(compiler, {"format": name}, value) for value in [*one.valid, 1, None, {}])
    assert not any(accepts(compiler, {"format": name}, value) for value in one.invalid)
    assert accepts(compiler, {"format": name, "pattern": "^[^ ]*$", "type": "string"}, one.valid[0])


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_another_format_is_refused(compiler: Compiler, name: str) -> None:
    assert place(compiler, {"items": {"format": name}}) == "items.format"


REFUSALS: dict[str, tuple[Any, str | None]] = {
    "nested not": ({"properties": {"a": {"items": {"not": {}}}}}, "properties.a.items.not"),
    "minProperties": ({"type": "object", "minProperties": 2}, "minProperties"),
    "a misspelt keyword": ({"items": {"minlength": 3}}, "items.minlength"),
    "OpenAPI 3.0": ({"type": "string", "nullable": True}, "nullable"),
    "remote $ref": ({"$ref": "http://example.org/schema"}, "$ref"),
    "missing $ref": ({"$ref": "#/$defs/a"}, "$ref"),
    "$ref into an enum": ({"enum": [{"not": {}}], "anyOf": [{"$ref": "#/enum/0"}]}, "anyOf.0.$ref"),
    "$ref into a comment": ({"examples": [{"unknown": 1}], "$ref": "#/examples/0"}, "$ref"),
    "$ref to itself": ({"$ref": "#"}, ""),
    "$ref in a circle": (
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        "$defs.a.allOf.0",
    ),
    "inner $id": ({"properties": {"a": {"$id": "urn:x"}}}, "properties.a.$id"),
    "another dialect": ({"$schema": "http://example.org/schema"}, "$schema"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    "a pattern of names": ({"patternProperties": {"(": {}}}, "patternProperties.("),
    "unknown type": ({"type": "strng"}, "type"),
    "wrong value": ({"properties": {"a": {"minLength": "2"}}}, "properties.a.minLength"),
    "draft 4 bound": ({"type": "number", "minimum": 1, "exclusiveMinimum": True}, "exclusiveMinimum"),
    "overlapping oneOf": ({"items": {"oneOf": [{"type": "number"}, {"type": "integer"}]}}, "items.oneOf"),
    "a large number": ({"const": 2**53 + 1}, "const"),
    "a large bound": ({"minimum": 2**60}, "minimum"),
    "a control character": ({"enum": [{"a": ["\x01"]}]}, "enum"),
    "a strange name": ({"properties": {"\x7f": {}}}, "properties"),
    "false": (False, None),
    "nothing is valid": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, None),
    "a pattern of control characters": ({"type": "string", "pattern": r"^\x01$"}, "pattern"),
    "a way to be lenient": ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
    "no schema": ([], None),
    "no schema within": ({"items": 5}, "items"),
    "too deep": ({"items": json.loads('{"items":' * 200 + "{}" + "}" * 200)}, None),
}


@pytest.mark.inventory("G-03", "J-02")
@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_enforced_is_refused(compiler: Compiler, name: str) -> None:
    schema, where = REFUSALS[name]
    assert (place(compiler, schema) or "") == (where or "")


def test_a_misspelt_keyword_is_explained(compiler: Compiler) -> None:
    with pytest.raises(RequestError, match="'minlength' is no keyword of JSON Schema; did you mean 'minLength'"):
        compiler.compile('{"minlength": 3}')


def test_what_asks_for_nothing(compiler: Compiler) -> None:
    for more in [
        {"uniqueItems": False},
        {"unevaluatedProperties": {}},
        {"x-order": 3},
        {"propertyNames": True},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"discriminator": {"propertyName": "k"}},
    ]:
        assert accepts(compiler, {"type": "integer", **more}, 7)
        assert not accepts(compiler, {"type": "integer", **more}, "7")


@pytest.mark.parametrize("schema", [{}, True])
@pytest.mark.parametrize("value", [0, "a", None, [1, {}], {"a": {"b": [True]}}])
def test_an_empty_schema_is_any_json(compiler: Compiler, schema: Any, value: Any) -> None:
    assert accepts(compiler, schema, value)
    assert not accepts(compiler, schema, value) or not compiler.compile(json.dumps(schema)).accept(ord("x"))


def test_counts_may_be_written_as_floats(compiler: Compiler) -> None:
    assert accepts(compiler, {"maxItems": 1.0}, [1])
    assert not accepts(compiler, {"maxItems": 1.0}, [1, 2])


BOUNDS = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}
NUMBERS = ["0", "0.5", "1", "-1", "9.99", "100", "-0.01", "1e-5", "1048576", "1e15", "9007199254740992"]
numbers = st.sampled_from(NUMBERS) | st.decimals(-1000, 1000, places=3).map(str)


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["number", "integer"]),
    bounds=st.dictionaries(st.sampled_from(list(BOUNDS)), numbers, max_size=2),
    step=st.sampled_from(["0", "0.1", "0.001", "1", "10", "0.25"]),
    sign=st.sampled_from([-1, 1]),
    near=st.booleans(),
)
def test_numbers_near_their_bounds(
    compiler: Compiler, kind: str, bounds: dict[str, str], step: str, sign: int, near: bool
) -> None:
    if near and len(bounds) == 2:
        first, second = bounds
        bounds[second] = str(Decimal(bounds[first]) + sign * Decimal(step))
    source = "{" + "".join(f'"{name}":{value},' for name, value in bounds.items()) + f'"type":"{kind}"}}'
    texts = [format(Decimal(value) + other * Decimal(step), "f") for value in bounds.values() for other in (-1, 0, 1)]
    texts += [text + ("0" if "." in text else ".0") for text in texts] + ["-0", "0.0"]
    for text in texts:
        try:
            allowed = accepts_text(compiler, source, text)
        except RequestError as error:
            if "Unsatisfiable" in error.message or "2⁵³" in error.message:
                return
            raise
        value = Decimal(text)
        valid = all(BOUNDS[name](value, exact(bound)) for name, bound in bounds.items())
        assert not allowed or (valid and (kind == "number" or value % 1 == 0)), f"{text} under {source}"
        if kind == "integer" and valid and "." not in text and text != "-0":
            assert allowed, f"{text} under {source}"


def exact(number: str) -> Decimal:
    """A number as JSON has it: a large one is the float64 next to what is written."""
    return Decimal(number) if abs(Decimal(number)) < 10**6 else Decimal(float(number))


def said(compiler: Compiler, schema: Any, text: str) -> bool:
    return accepts_text(compiler, json.dumps(schema), text)


def test_a_name_cannot_come_again_as_another_property(compiler: Compiler) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "\n": {"type": "integer"}}}
    assert said(compiler, schema, '{"a":1,"b":"x"}')
    for text in ('{"a":1,"a":"x"}', '{"b":1,"a":"x"}', r'{"\u0061":"x"}', r'{"\u000a":"x"}', r'{"\u000A":"x"}'):
        assert not said(compiler, schema, text), text


@pytest.mark.inventory("G-04")
def test_properties_come_in_the_order_of_the_schema(compiler: Compiler) -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert said(compiler, schema, '{"b":1,"a":2}')
    assert said(compiler, schema, '{"a":2}')
    assert not said(compiler, schema, '{"a":2,"b":1}')


def test_bounds_beyond_what_all_readers_agree_on(compiler: Compiler) -> None:
    schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    assert accepts(compiler, schema, 2**53)
    assert accepts(compiler, schema, -(2**53))
    assert not accepts(compiler, schema, 2**63)
    assert not accepts(compiler, {"type": "number", "maximum": 1.7976931348623157e308}, 10**400)


def test_white_space_ends(compiler: Compiler) -> None:
    assert said(compiler, {"type": "object"}, '{\n  "a": [1, 2]\n}')
    assert not said(compiler, {"type": "object"}, "{" + " " * 40 + "}")
