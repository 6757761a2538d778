"""JSON Schema: each keyword allows exactly its valid values, or is refused."""

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
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.json_schema import (
    ANNOTATIONS,
    ENFORCED,
    FORMATS,
    REFUSED,
    REFUSED_FORMATS,
    VOCABULARIES,
    Case,
    accepts,
    accepts_text,
    describe_keyword,
    keywords,
    refused_path,
)
from support.schemas import AdversarialLogits, generate, parse_and_validate

pytestmark = pytest.mark.inventory("G-02", "E-033", "C-095")
CASES = [(name, case) for name, cases in ENFORCED.items() for case in cases]
CASES += [(name, Case({"format": name, "type": "string"}, case.valid, case.invalid)) for name, case in FORMATS.items()]
KEYWORDS = [keyword for vocabulary in VOCABULARIES for keyword in keywords(vocabulary)]
NOT_CHECKED = ("contentEncoding", "base64", "base64url", "ipv4network", "jwt", "uuid4")  # by the package jsonschema
STRICTER = ["2024-06-30T23:59:60Z", "23:59:60Z", "a@", "@b", "a..b@example.org"]
"""Values that we refuse although the standard, or the packages that check formats, allow them."""


def test_every_keyword_of_the_draft_is_in_one_table() -> None:
    tables = [*ENFORCED, *REFUSED, *ANNOTATIONS]
    assert sorted(tables) == sorted(KEYWORDS)
    assert len(KEYWORDS) > 50


@pytest.mark.inventory("G-03", "J-02")
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_keyword_is_enforced_refused_or_an_annotation(compiler: LlguidanceCompiler, keyword: str) -> None:
    status, _, _ = describe_keyword(compiler, keyword)
    assert (status == "enforced") is (keyword in ENFORCED)


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_random_responses_under_a_keyword_are_valid(compiler: LlguidanceCompiler, name: str, case: Case) -> None:
    assert all(is_valid(case.schema, value) for value in case.valid)
    if name not in NOT_CHECKED:
        assert not any(is_valid(case.schema, value) for value in case.invalid if value not in STRICTER)

    n_complete = 0
    for seed in range(12):
        grammar = compiler.compile(json.dumps(case.schema))
        tokenizer = compiler.context.tokenizer
        text = generate(grammar, AdversarialLogits(case.schema, seed).row, tokenizer.piece, tokenizer.eog)
        if text is not None:
            parse_and_validate(case.schema, text)
            n_complete += 1
    assert n_complete


def is_valid(schema: Any, value: Any) -> bool:
    try:
        parse_and_validate(schema, json.dumps(value).encode())
    except jsonschema.ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_enforced_for_strings_only(compiler: LlguidanceCompiler, name: str) -> None:
    case = FORMATS[name]
    allowed = [*case.valid, 1, None, {}]
    assert allowed == [value for value in [*allowed, *case.invalid] if accepts(compiler, {"format": name}, value)]
    assert accepts(compiler, {"format": name, "pattern": "^[^ ]*$", "type": "string"}, case.valid[0])


@pytest.mark.parametrize("name", REFUSED_FORMATS)
def test_other_formats_are_refused(compiler: LlguidanceCompiler, name: str) -> None:
    assert refused_path(compiler, {"items": {"format": name}}) == "items.format"


REFUSALS: dict[str, tuple[Any, str | None]] = {
    "nested not": ({"properties": {"a": {"items": {"not": {"type": "null"}}}}}, "properties.a.items.not"),
    "minProperties": ({"type": "object", "minProperties": 2}, "minProperties"),
    "misspelt keyword": ({"items": {"minlength": 3}}, "items.minlength"),
    "remote $ref": ({"$ref": "http://example.org/schema"}, "$ref"),
    "missing $ref": ({"$ref": "#/$defs/a"}, "$ref"),
    "$ref into an enum": ({"enum": [{"not": {"type": "null"}}], "anyOf": [{"$ref": "#/enum/0"}]}, "anyOf.0.$ref"),
    "$ref into a comment": ({"examples": [{"unknown": 1}], "$ref": "#/examples/0"}, "$ref"),
    "$ref to itself": ({"$ref": "#"}, None),
    "$ref in a cycle": (
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        "$defs.a.allOf.0",
    ),
    "inner $id": ({"properties": {"a": {"$id": "urn:x"}}}, "properties.a.$id"),
    "unknown $schema": ({"$schema": "http://example.org/schema"}, "$schema"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    "invalid pattern of names": ({"patternProperties": {"(": {}}}, "patternProperties.("),
    "unknown type": ({"type": "strng"}, "type"),
    "value of the wrong type": ({"properties": {"a": {"minLength": "2"}}}, "properties.a.minLength"),
    "draft 4 bound": ({"type": "number", "minimum": 1, "exclusiveMinimum": True}, "exclusiveMinimum"),
    "overlapping oneOf": ({"items": {"oneOf": [{"type": "number"}, {"type": "integer"}]}}, "items.oneOf"),
    "large number": ({"const": 2**53 + 1}, "const"),
    "large bound": ({"minimum": 2**60}, "minimum"),
    "control character": ({"enum": [{"a": ["\x01"]}]}, "enum"),
    "property name with U+007F": ({"properties": {"\x7f": {}}}, "properties"),
    "false": (False, None),
    "unsatisfiable": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, None),
    "control character in a pattern": ({"type": "string", "pattern": r"^\x01$"}, "pattern"),
    "option of llguidance": ({"x-guidance": {"lenient": True}, "not": {"type": "null"}}, "x-guidance"),
    "array instead of a schema": ([], None),
    "number instead of a subschema": ({"items": 5}, "items"),
    "deeply nested": ({"items": json.loads('{"items":' * 200 + "{}" + "}" * 200)}, None),
}


@pytest.mark.inventory("G-03", "J-02")
@pytest.mark.parametrize("name", REFUSALS)
def test_unenforceable_schemas_are_refused_with_their_path(compiler: LlguidanceCompiler, name: str) -> None:
    schema, path = REFUSALS[name]
    assert refused_path(compiler, schema) == path


def test_a_misspelt_keyword_gets_a_suggestion(compiler: LlguidanceCompiler) -> None:
    with pytest.raises(RequestError, match="'minlength' is not a keyword of JSON Schema; did you mean 'minLength'"):
        compiler.compile('{"minlength": 3}')


@pytest.mark.parametrize("schema", [{"minProperties": 2}, {"minProperties": 2, "required": ["a"]}])
def test_min_properties_above_required_is_refused(compiler: LlguidanceCompiler, schema: Any) -> None:
    with pytest.raises(RequestError, match="'minProperties' above 1 cannot be enforced"):
        compiler.compile(json.dumps(schema))


@pytest.mark.parametrize(
    "keyword",
    [
        {"uniqueItems": False},
        {"unevaluatedProperties": {}},
        {"x-order": 3},
        {"propertyNames": True},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"discriminator": {"propertyName": "k"}},
    ],
    ids=lambda keyword: next(iter(keyword)),
)
def test_keywords_that_restrict_nothing_are_ignored(compiler: LlguidanceCompiler, keyword: dict[str, Any]) -> None:
    assert accepts(compiler, {"type": "integer", **keyword}, 7)
    assert not accepts(compiler, {"type": "integer", **keyword}, "7")


@pytest.mark.parametrize("schema", [{}, True])
@pytest.mark.parametrize("value", [0, "a", None, [1, {}], {"a": {"b": [True]}}])
def test_an_empty_schema_allows_any_json(compiler: LlguidanceCompiler, schema: Any, value: Any) -> None:
    assert accepts(compiler, schema, value)


@pytest.mark.parametrize("text", ["x", "{", '{"a"}', "[1,]", "01", "1 2"])
@pytest.mark.parametrize("schema", [{}, True])
def test_an_empty_schema_allows_only_json(compiler: LlguidanceCompiler, schema: Any, text: str) -> None:
    assert not accepts_text(compiler, json.dumps(schema), text)


def test_counts_may_be_written_as_floats(compiler: LlguidanceCompiler) -> None:
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
def test_numbers_near_bounds_are_valid(
    compiler: LlguidanceCompiler, kind: str, bounds: dict[str, str], step: str, sign: int, near: bool
) -> None:
    if near and len(bounds) == 2:
        first, second = bounds
        bounds[second] = str(Decimal(bounds[first]) + sign * Decimal(step))
    source = "{" + "".join(f'"{name}":{value},' for name, value in bounds.items()) + f'"type":"{kind}"}}'
    texts = [format(Decimal(value) + offset * Decimal(step), "f") for value in bounds.values() for offset in (-1, 0, 1)]
    texts += [text + ("0" if "." in text else ".0") for text in texts] + ["-0", "0.0"]

    for text in texts:
        try:
            allowed = accepts_text(compiler, source, text)
        except RequestError as error:
            if "Unsatisfiable" in error.message or "2⁵³" in error.message:
                return
            raise
        value = Decimal(text)
        valid = all(BOUNDS[name](value, parse_bound(bound)) for name, bound in bounds.items())
        assert not allowed or (valid and (kind == "number" or value % 1 == 0)), f"{text} under {source}"
        if kind == "integer" and valid and "." not in text and text != "-0":
            assert allowed, f"{text} under {source}"


@pytest.mark.parametrize("keyword", ["maximum", "exclusiveMaximum"])
def test_large_fractional_bounds_are_not_exceeded(compiler: LlguidanceCompiler, keyword: str) -> None:
    schema = {"type": "number", "minimum": 10**15, keyword: 10**15 + 0.25}
    assert allows(compiler, schema, "1000000000000000")
    assert not allows(compiler, schema, "1000000000000000.3")
    negative = {
        "type": "number",
        "maximum": -(10**15),
        keyword.replace("max", "min").replace("Max", "Min"): -(10**15) - 0.25,
    }
    assert allows(compiler, negative, "-1000000000000000")
    assert not allows(compiler, negative, "-1000000000000000.3")


def parse_bound(number: str) -> Decimal:
    """Return a number as JSON parsers read it: large ones are rounded to float64."""
    return Decimal(number) if abs(Decimal(number)) < 2**40 else Decimal(float(number))


def allows(compiler: LlguidanceCompiler, schema: Any, text: str) -> bool:
    return accepts_text(compiler, json.dumps(schema), text)


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":"x"}', '{"b":1,"a":"x"}', r'{"\u0061":"x"}', r'{"\u000a":"x"}', r'{"\u000A":"x"}']
)
def test_a_property_name_cannot_evade_its_schema(compiler: LlguidanceCompiler, text: str) -> None:
    properties = {"a": {"type": "integer"}, "\n": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "additionalProperties": True}
    assert allows(compiler, schema, '{"a":1,"b":"x"}')
    assert not allows(compiler, schema, text)


@pytest.mark.inventory("G-04")
def test_properties_come_in_the_order_of_the_schema(compiler: LlguidanceCompiler) -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert allows(compiler, schema, '{"b":1,"a":2}')
    assert allows(compiler, schema, '{"a":2}')
    assert not allows(compiler, schema, '{"a":2,"b":1}')


def test_bounds_beyond_2_to_the_53_are_limited_to_it(compiler: LlguidanceCompiler) -> None:
    schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    assert accepts(compiler, schema, 2**53)
    assert accepts(compiler, schema, -(2**53))
    assert not accepts(compiler, schema, 2**63)
    assert not accepts(compiler, {"type": "number", "maximum": 1.7976931348623157e308}, 10**400)


def test_white_space_is_limited(compiler: LlguidanceCompiler) -> None:
    """It is that of one line, or with ``x-whitespace`` up to 32 characters."""
    free = {"type": "object", "x-whitespace": "free"}
    for text, is_compact in (('{"a": [1, 2]}', True), ('{"a":[1,2]}', True), ('{\n  "a": [1, 2]\n}', False)):
        assert allows(compiler, {"type": "object"}, text) is is_compact
        assert allows(compiler, free, text)
    assert not allows(compiler, free, "{" + " " * 40 + "}")
