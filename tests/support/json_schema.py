"""Generates docs/json-schema.md by compiling schemas of every keyword: ``python tests/support/json_schema.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema_specifications import REGISTRY

from llamafw import GrammarContext, RequestError
from llamafw_plugins.grammars.compiler import LlguidanceCompiler

ROOT = Path(__file__).parents[2]
DRAFT = "https://json-schema.org/draft/2020-12/meta/"
VOCABULARIES = ("core", "applicator", "validation", "unevaluated", "format-annotation", "content", "meta-data")
PERSON = {"type": "object", "properties": {"k": {"const": "person"}, "age": {"type": "integer"}}, "required": ["k"]}
DOG = {"type": "object", "properties": {"k": {"const": "dog"}}, "required": ["k"]}


@dataclass(frozen=True)
class Case:
    """A schema that is enforced, values that it allows and values that it does not allow."""

    schema: Any
    valid: Sequence[Any]
    invalid: Sequence[Any]
    note: str = ""


ENFORCED: dict[str, list[Case]] = {
    "$ref": [
        Case({"$defs": {"n": {"enum": [4, 5]}}, "items": {"$ref": "#/$defs/n"}}, [[], [4, 5]], [[3]],
             "within the schema, also recursive and next to other keywords"),
        Case({"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
            {"const": 0}, {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 1}]}}},
            [0, [0], [[[0]]]], [1, [], [[1]]]),
        Case({"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
             [{}, {"next": {"next": {}}}], [{"next": 1}, {"next": {"other": {}}}]),
        Case({"properties": {"a": {"$ref": "#/$defs/n", "minimum": 3}}, "$defs": {"n": {"maximum": 5}}},
             [{"a": 3}, {"a": 5}], [{"a": 2}, {"a": 6}]),
    ],
    "$anchor": [Case({"$ref": "#n", "$defs": {"x": {"$anchor": "n", "type": "null"}}}, [None], [0])],
    "$defs": [Case({"$defs": {"a~b/c": {"type": "null"}}, "$ref": "#/$defs/a~0b~1c"}, [None], [1, {}],
                   "also as `definitions`")],
    "prefixItems": [
        Case({"type": "array", "prefixItems": [{"const": 1}, {"const": "x"}], "items": False, "minItems": 2},
             [[1, "x"]], [[], [1], ["x", 1], [1, "x", 1]], "also as a list in `items`, with `additionalItems`"),
        Case({"$schema": "https://json-schema.org/draft/2019-09/schema", "type": "array", "items": [{"const": 1}],
              "additionalItems": {"type": "null"}}, [[], [1], [1, None]],
             [[2], [1, 1]]),
    ],
    "items": [Case({"type": "array", "items": {"type": "boolean"}}, [[], [True, False]], [[1], True])],
    "additionalProperties": [
        Case({"type": "object", "additionalProperties": {"type": "boolean"}}, [{}, {"x": True, "": False}],
             [{"x": 1}, []]),
        Case({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": True},
             [{}, {"a": None}, {"a": None, "b": 1}], [{"a": 1}, {"b": 1, "a": 1}],
             "if absent, an object with `properties` has no others: models invent them"),
    ],
    "properties": [
        Case({"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "additionalProperties": False},
             [{}, {"b": 1}, {"b": 1, "a": 2}], [{"b": "1"}, {"c": 1}], "in the order of the schema"),
        Case({"type": "object", "properties": {"not": {"type": "null"}, "a": False}}, [{"not": None}, {}],
             [{"not": 1}, {"a": 1}]),
    ],
    "patternProperties": [
        Case({"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}, "^y": {"type": "null"}}},
             [{}, {"x1": 1, "y": None, "z": 1}], [{"x1": "a"}, {"yy": 1}],
             "ECMA-262 patterns that exclude each other"),
    ],
    "propertyNames": [
        Case({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "boolean"}},
             [{}, {"a": True, "b": False}], [{"c": True}, {"a": 1}], "values or one pattern"),
        Case({"type": "object", "propertyNames": {"pattern": "^x"}}, [{}, {"x1": 1}], [{"a": 1}]),
    ],
    "uniqueItems": [
        Case({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}, [[], ["b", "a"]],
             [["a", "a"], ["d"]], "for arrays of values in an `enum`; from 7 values on, in the order of the schema"),
    ],
    "contentEncoding": [
        Case({"type": "string", "contentEncoding": "base64"}, ["", "YQ==", "YWJj"], ["a", "YQ=", "YQ==="],
             "`base64` and `base64url`; `binary`, `7bit` and `8bit` are ignored"),
    ],
    "allOf": [Case({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6, "a"])],
    "anyOf": [Case({"anyOf": [{"const": "a"}, {"type": "integer", "minimum": 0}]}, ["a", 0, 9], [-1, "b", None])],
    "oneOf": [
        Case({"oneOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/d"}], "$defs": {"p": PERSON, "d": DOG}},
             [{"k": "person", "age": 3}, {"k": "dog"}], [{"k": "cat"}, {"k": "person", "age": "3"}, {}],
             "branches that exclude each other by types, values, bounds, or a required property"),
        Case({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 7}, {"type": "string"}]},
             [3, 7, "x"], [5, None]),
    ],
    "type": [
        Case({"type": "integer"}, [0, -12, 10**12], ["1", 1.5, None, True]),
        Case({"type": ["string", "null"]}, ["", "é\n", None], [1, [], {}]),
    ],
    "const": [Case({"const": {"a": [1, "é"]}}, [{"a": [1, "é"]}], [{"a": [1, "e"]}, {"a": [1]}, {}],
                   "without control characters, numbers up to ±2⁵³")],
    "enum": [Case({"enum": [1, "a", None, {"b": [True]}, 1.5]}, [1, "a", None, {"b": [True]}, 1.5],
                  [2, "b", {}, {"b": [False]}], "without control characters, numbers up to ±2⁵³")],
    "multipleOf": [
        Case({"type": "integer", "multipleOf": 5}, [0, 5, 100, -5], [3, 99], "up to 9 digits"),
        Case({"type": "number", "multipleOf": 0.1}, [0.3, 2], [0.35]),
    ],
    "maximum": [Case({"type": "integer", "minimum": -3, "maximum": 13}, [-3, 7, 13], [-4, 14],
                     "bounds beyond ±2⁵³ count as ±2⁵³")],
    "exclusiveMaximum": [Case({"type": "number", "exclusiveMaximum": 1, "minimum": 0}, [0, 0.99], [1, 1.5, -1])],
    "minimum": [Case({"type": "number", "minimum": 0.5, "maximum": 2}, [0.5, 2, 1.25], [0.49, 2.01, "1"],
                     "bounds up to 2⁵³")],
    "exclusiveMinimum": [Case({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, [1, 2], [0, 3])],
    "maxLength": [Case({"type": "string", "maxLength": 2}, ["", "ab", "é❤"], ["abc", 1], "in Unicode characters")],
    "minLength": [Case({"type": "string", "minLength": 2}, ["ab", "éèêë", "❤❤"], ["", "❤"])],
    "pattern": [
        Case({"type": "string", "pattern": "^[a-c]{2}[0-9]$"}, ["ab7"], ["ab", "ad7", "ab77", "xab7"],
             "ECMA-262, anchored or not; no look-around, word boundaries or back-references"),
        Case({"type": "string", "pattern": "b[0-9]"}, ["b1", "xxb2yy"], ["b", "1b"]),
        Case({"type": "string", "pattern": "^a|b$"}, ["a", "ax", "xb"], ["xa", "bx", ""]),
        Case({"type": "string", "pattern": r"^\d+\s\w*$", "minLength": 3, "maxLength": 5}, ["12 x"],
             ["1 ", "1 xxxx", "x y"]),
    ],
    "maxItems": [Case({"type": "array", "maxItems": 2}, [[], [1, 2]], [[1, 2, 3], 1])],
    "minItems": [Case({"type": "array", "minItems": 1, "items": {"enum": [1, 2]}}, [[1], [2, 1, 2]], [[], [3]])],
    "maxProperties": [Case({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}])],
    "minProperties": [Case({"type": "object", "minProperties": 1}, [{"a": 1}], [{}],
                           "up to 1 or the number of required properties, because a response may repeat a name")],
    "required": [Case({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b", "c"]},
                      [{"b": 1, "c": 2}, {"a": 0, "b": 1, "c": 2}], [{}, {"a": 1}, {"b": 1}])],
    "format": [Case({"format": "ipv4"}, ["127.0.0.1", 1], ["localhost", "1.2.3", ""], "see the table of formats")],
}  # fmt: skip
FORMATS: dict[str, Case] = {
    "date-time": Case({}, ["2024-02-29T12:00:00Z", "1999-12-31T23:59:59.5-05:30"],
                      ["2023-02-29T12:00:00Z", "2024-02-29", "2024-02-29 12:00:00Z", "2024-06-30T23:59:60Z"],
                      "no leap seconds: most libraries cannot read them"),
    "date": Case({}, ["2024-02-29", "2000-02-29", "2023-12-31"],
                 ["2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01"]),
    "time": Case({}, ["23:59:59Z", "12:00:00.5+02:00"], ["24:00:00Z", "12:00:00", "23:59:60Z"], "no leap seconds"),
    "duration": Case({}, ["P1DT2H", "P3W"], ["P", "1D", "PT1D"]),
    "email": Case({}, ["a.b@example.org"], ["a", "a@", "@b", "a..b@example.org"]),
    "hostname": Case({}, ["a." * 126 + "a", "example.org", "a"], ["-a", "a_b", "", "a." * 126 + "ab"]),
    "ipv4": Case({}, ["127.0.0.1", "255.255.255.255"], ["256.1.1.1", "1.2.3"]),
    "ipv6": Case({}, ["::1", "2001:db8::8a2e:370:7334"], ["1::2::3", "12345::", ":"]),
    "uri": Case({}, ["https://example.org/a?b=c#d", "urn:x:y"], ["/a", "a b", "//example.org"]),
    "base64": Case({}, ["", "YQ==", "YWJj"], ["a", "YQ"]),
    "base64url": Case({}, ["", "YQ", "_-8="], ["a", "+/8="]),
    "ipv4network": Case({}, ["10.0.0.0/8"], ["10.0.0.0", "10.0.0.0/33"]),
    "jwt": Case({}, ["a.b.c"], ["a.b", "a..c"]),
    "uuid4": Case({}, ["123e4567-e89b-42d3-a456-426614174000"], ["123e4567-e89b-12d3-a456-426614174000"]),
    "uuid": Case({}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "123e4567-e89b-12d3-a456-42661417400g"]),
}  # fmt: skip
REFUSED_FORMATS = ("idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template", "json-pointer",
                 "relative-json-pointer", "regex")  # fmt: skip
REFUSED: dict[str, Any] = {
    "$vocabulary": {"$vocabulary": {DRAFT + "core": True}},
    "$dynamicAnchor": {"$dynamicAnchor": "x"},
    "$dynamicRef": {"$dynamicRef": "#x"},
    "contains": {"type": "array", "contains": {"type": "string"}},
    "dependentSchemas": {"dependentSchemas": {"a": {"required": ["b"]}}},
    "if": {"if": {"type": "string"}, "then": {"minLength": 2}},
    "then": {"then": {"minLength": 2}, "if": {"type": "string"}},
    "else": {"else": False, "if": {"type": "string"}},
    "not": {"not": {"type": "string"}},
    "maxContains": {"maxContains": 1, "contains": {"type": "string"}},
    "minContains": {"minContains": 1, "contains": {"type": "string"}},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "unevaluatedItems": {"unevaluatedItems": False},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "contentMediaType": {"contentMediaType": "application/json"},
    "contentSchema": {"contentSchema": {}, "contentMediaType": "application/json"},
}
ANNOTATIONS: dict[str, Any] = {
    "$id": "https://example.org/schema", "$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "c",
    "title": "t", "description": "d", "default": "x", "deprecated": True, "readOnly": True, "writeOnly": False,
    "examples": [None],
}  # fmt: skip

HEAD = """\
# JSON Schema: supported keywords

This page says for every keyword of draft 2020-12 whether the server enforces it in `json_schema`, `response_format` and
required tool calls ([grammars](grammars.md)). `make docs` generates the page: it compiles at least one schema per
keyword and checks which values the schema allows. The tests also generate random responses under random schemas and
validate all complete ones with `jsonschema`.

- **enforced**: a response that ended by itself (`stop_type: eos`) is always valid.
- **400**: the keyword cannot be enforced, and the error names its path. Unknown keywords are 400 too.
- **annotation**: the keyword is ignored because it restricts nothing. Keywords that begin with `x-` are ignored too.

Some valid values are never generated: properties in another order than in the schema; names and strings with `\\u`
escapes; numbers with an exponent where the schema has bounds; integers with a fraction of zeros, such as `1.0`; white
space beyond that of JSON in one line; properties that an object with `properties` does not name, unless it has
`additionalProperties`.

Schemas of Pydantic, Zod and FastAPI are tested. Of OpenAPI, `nullable`, `example`, `xml`, `externalDocs` and
`discriminator` are annotations, and unions with a `discriminator` always have its property. The formats `int8` to
`int64` and `uint8` to `uint64` bound a number. The formats `float`, `double`, `decimal`, `binary`, `byte`, `password`,
`path`, `file-path`, `directory-path` and `textarea` are ignored, and other unknown formats beside a `pattern`."""


def keywords(vocabulary: str) -> list[str]:
    """Return the keywords of a vocabulary, read from its metaschema."""
    properties: dict[str, Any] = REGISTRY.contents(DRAFT + vocabulary)["properties"]
    return list(properties)


def accepts(compiler: LlguidanceCompiler, schema: Any, value: Any) -> bool:
    """Return whether the schema allows a value as ``json.dumps`` writes it.

    Raises
    ------
    RequestError
        The schema is refused.
    """
    return accepts_text(compiler, json.dumps(schema), json.dumps(value, ensure_ascii=False))


def accepts_text(compiler: LlguidanceCompiler, source: str, text: str) -> bool:
    """Return whether the grammar of ``source`` allows a text, fed byte by byte, as a complete response."""
    grammar = compiler.compile(source)
    eog = min(compiler.context.tokenizer.eog)
    return all(grammar.accept(byte) for byte in text.encode()) and (grammar.ended or grammar.accept(eog))


def refused_path(compiler: LlguidanceCompiler, schema: Any) -> str | None:
    """Return the path in the error message for a schema that must be refused.

    Raises
    ------
    AssertionError
        The schema is not refused.
    """
    try:
        compiler.compile(json.dumps(schema))
    except RequestError as error:
        return error.param
    raise AssertionError(f"{schema} is not refused")


def describe_keyword(compiler: LlguidanceCompiler, keyword: str) -> tuple[str, str, str]:
    """Check a keyword and return the other columns of its row: status, example, note."""
    if keyword in ENFORCED:
        return _describe_cases(compiler, ENFORCED[keyword])
    if keyword in REFUSED:
        if refused_path(compiler, REFUSED[keyword]) != keyword:
            raise AssertionError(f"the refusal of {keyword} does not name it")
        return "400", f"`{json.dumps(REFUSED[keyword])}`", ""

    schema = {"type": "integer", keyword: ANNOTATIONS[keyword]}
    if not accepts(compiler, schema, 7) or accepts(compiler, schema, "x"):
        raise AssertionError(f"the annotation {keyword} changes what the schema allows")
    return "annotation", "", "only at the root" if keyword == "$id" else ""


def _describe_cases(compiler: LlguidanceCompiler, cases: list[Case]) -> tuple[str, str, str]:
    for case in cases:
        expected = [*((value, True) for value in case.valid), *((value, False) for value in case.invalid)]
        for value, is_valid in expected:
            if accepts(compiler, case.schema, value) is not is_valid:
                raise AssertionError(f"{case.schema} {'refuses' if is_valid else 'allows'} {value!r}")

    first = cases[0]
    example = f"{_code(first.schema)}: {_code(first.valid[-1])}, not {_code(first.invalid[0])}"
    return "enforced", example, "; ".join(case.note for case in cases if case.note)


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def lines(compiler: LlguidanceCompiler) -> Iterator[str]:
    """Yield the lines of the page."""
    yield HEAD
    for vocabulary in VOCABULARIES:
        yield f"\n## {vocabulary}\n\n| Keyword | Status | Example | Notes |\n|---|---|---|---|"
        for keyword in keywords(vocabulary):
            yield f"| `{keyword}` | {' | '.join(describe_keyword(compiler, keyword))} |"

    yield "\n## Formats\n\n| Format | Status | Example | Notes |\n|---|---|---|---|"
    for name, case in FORMATS.items():
        status, _, note = _describe_cases(compiler, [Case({"format": name}, case.valid, case.invalid, case.note)])
        yield f"| `{name}` | {status} | {_code(case.valid[-1])}, not {_code(case.invalid[0])} | {note} |"
    for name in REFUSED_FORMATS:
        if refused_path(compiler, {"format": name}) != "format":
            raise AssertionError(f"the refusal of {name} does not name it")
        yield f"| `{name}` | 400 | | |"


def page() -> str:
    """Return the whole page."""
    from support.toy_model import N_VOCAB, ToyTokenizer

    return "\n".join(lines(LlguidanceCompiler("json_schema", GrammarContext(ToyTokenizer(), N_VOCAB)))) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    print(page(), end="")
