"""docs/json-schema.md, made by compiling a schema per keyword: ``python tests/support/json_schema.py > …``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema_specifications import REGISTRY

from llamafw import GrammarContext, RequestError
from llamafw_plugins.grammars.compiler import Compiler

ROOT = Path(__file__).parents[2]
DRAFT = "https://json-schema.org/draft/2020-12/meta/"
VOCABULARIES = ("core", "applicator", "validation", "unevaluated", "format-annotation", "content", "meta-data")
PERSON = {"type": "object", "properties": {"k": {"const": "person"}, "age": {"type": "integer"}}, "required": ["k"]}
DOG = {"type": "object", "properties": {"k": {"const": "dog"}}, "required": ["k"]}


@dataclass(frozen=True)
class Case:
    """A schema that is enforced, what can be said under it and what cannot."""

    schema: Any
    valid: tuple[Any, ...]
    invalid: tuple[Any, ...]
    note: str = ""


def case(schema: Any, valid: list[Any], invalid: list[Any], note: str = "") -> Case:
    return Case(schema, tuple(valid), tuple(invalid), note)


ENFORCED: dict[str, list[Case]] = {
    "$ref": [
        case({"$defs": {"n": {"enum": [4, 5]}}, "items": {"$ref": "#/$defs/n"}}, [[], [4, 5]], [[3]],
             "within the schema, also recursive, with keywords beside it"),
        case({"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
            {"const": 0}, {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 1}]}}},
            [0, [0], [[[0]]]], [1, [], [[1]]]),
        case({"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
             [{}, {"next": {"next": {}}}], [{"next": 1}, {"next": {"other": {}}}]),
        case({"properties": {"a": {"$ref": "#/$defs/n", "minimum": 3}}, "$defs": {"n": {"maximum": 5}}},
             [{"a": 3}, {"a": 5}], [{"a": 2}, {"a": 6}]),
    ],
    "$anchor": [case({"$ref": "#n", "$defs": {"x": {"$anchor": "n", "type": "null"}}}, [None], [0])],
    "$defs": [case({"$defs": {"a~b/c": {"type": "null"}}, "$ref": "#/$defs/a~0b~1c"}, [None], [1, {}],
                   "also as `definitions`")],
    "prefixItems": [
        case({"type": "array", "prefixItems": [{"const": 1}, {"const": "x"}], "items": False, "minItems": 2},
             [[1, "x"]], [[], [1], ["x", 1], [1, "x", 1]], "also as a list in `items`, with `additionalItems`"),
        case({"$schema": "https://json-schema.org/draft/2019-09/schema", "type": "array", "items": [{"const": 1}],
              "additionalItems": {"type": "null"}}, [[], [1], [1, None]],
             [[2], [1, 1]]),
    ],
    "items": [case({"type": "array", "items": {"type": "boolean"}}, [[], [True, False]], [[1], True])],
    "additionalProperties": [
        case({"type": "object", "additionalProperties": {"type": "boolean"}}, [{}, {"x": True, "": False}],
             [{"x": 1}, []]),
        case({"type": "object", "properties": {"a": {"type": "null"}}}, [{}, {"a": None}, {"a": None, "b": 1}],
             [{"a": 1}, {"b": 1, "a": 1}], "absent: anything, after the named ones"),
    ],
    "properties": [
        case({"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "additionalProperties": False},
             [{}, {"b": 1}, {"b": 1, "a": 2}], [{"b": "1"}, {"c": 1}], "in the schema's order"),
        case({"type": "object", "properties": {"not": {"type": "null"}, "a": False}}, [{"not": None}, {}],
             [{"not": 1}, {"a": 1}]),
    ],
    "patternProperties": [
        case({"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}, "^y": {"type": "null"}}},
             [{}, {"x1": 1, "y": None, "z": 1}], [{"x1": "a"}, {"yy": 1}],
             "patterns that exclude each other, as ECMA-262 reads them"),
    ],
    "allOf": [case({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6, "a"])],
    "anyOf": [case({"anyOf": [{"const": "a"}, {"type": "integer", "minimum": 0}]}, ["a", 0, 9], [-1, "b", None])],
    "oneOf": [
        case({"oneOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/d"}], "$defs": {"p": PERSON, "d": DOG}},
             [{"k": "person", "age": 3}, {"k": "dog"}], [{"k": "cat"}, {"k": "person", "age": "3"}, {}],
             "branches that exclude each other by types, values, bounds, or a required property"),
        case({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 7}, {"type": "string"}]},
             [3, 7, "x"], [5, None]),
    ],
    "type": [
        case({"type": "integer"}, [0, -12, 10**12], ["1", 1.5, None, True]),
        case({"type": ["string", "null"]}, ["", "é\n", None], [1, [], {}]),
    ],
    "const": [case({"const": {"a": [1, "é"]}}, [{"a": [1, "é"]}], [{"a": [1, "e"]}, {"a": [1]}, {}],
                   "no control characters, numbers up to ±2⁵³")],
    "enum": [case({"enum": [1, "a", None, {"b": [True]}, 1.5]}, [1, "a", None, {"b": [True]}, 1.5],
                  [2, "b", {}, {"b": [False]}], "no control characters, numbers up to ±2⁵³")],
    "multipleOf": [
        case({"type": "integer", "multipleOf": 5}, [0, 5, 100, -5], [3, 99], "up to 9 digits"),
        case({"type": "number", "multipleOf": 0.1}, [0.3, 2], [0.35]),
    ],
    "maximum": [case({"type": "integer", "minimum": -3, "maximum": 13}, [-3, 7, 13], [-4, 14],
                     "beyond ±2⁵³ taken for ±2⁵³")],
    "exclusiveMaximum": [case({"type": "number", "exclusiveMaximum": 1, "minimum": 0}, [0, 0.99], [1, 1.5, -1])],
    "minimum": [case({"type": "number", "minimum": 0.5, "maximum": 2}, [0.5, 2, 1.25], [0.49, 2.01, "1"],
                     "at most 2⁵³")],
    "exclusiveMinimum": [case({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, [1, 2], [0, 3])],
    "maxLength": [case({"type": "string", "maxLength": 2}, ["", "ab", "é❤"], ["abc", 1], "in characters")],
    "minLength": [case({"type": "string", "minLength": 2}, ["ab", "éèêë", "❤❤"], ["", "❤"])],
    "pattern": [
        case({"type": "string", "pattern": "^[a-c]{2}[0-9]$"}, ["ab7"], ["ab", "ad7", "ab77", "xab7"],
             "ECMA-262, anchored or not; no look-around, word boundaries or back-references"),
        case({"type": "string", "pattern": "b[0-9]"}, ["b1", "xxb2yy"], ["b", "1b"]),
        case({"type": "string", "pattern": "^a|b$"}, ["a", "ax", "xb"], ["xa", "bx", ""]),
        case({"type": "string", "pattern": r"^\d+\s\w*$", "minLength": 3, "maxLength": 5}, ["12 x"],
             ["1 ", "1 xxxx", "x y"]),
    ],
    "maxItems": [case({"type": "array", "maxItems": 2}, [[], [1, 2]], [[1, 2, 3], 1])],
    "minItems": [case({"type": "array", "minItems": 1, "items": {"enum": [1, 2]}}, [[1], [2, 1, 2]], [[], [3]])],
    "maxProperties": [case({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}])],
    "minProperties": [case({"type": "object", "minProperties": 1}, [{"a": 1}], [{}],
                           "1, or as many as are required: a name may come twice")],
    "required": [case({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b", "c"]},
                      [{"b": 1, "c": 2}, {"a": 0, "b": 1, "c": 2}], [{}, {"a": 1}, {"b": 1}])],
    "format": [case({"format": "ipv4"}, ["127.0.0.1", 1], ["localhost", "1.2.3", ""], "those of the table below")],
}  # fmt: skip
FORMATS: dict[str, Case] = {
    "date-time": case({}, ["2024-02-29T12:00:00Z", "1999-12-31T23:59:59.5-05:30"],
                      ["2023-02-29T12:00:00Z", "2024-02-29", "2024-02-29 12:00:00Z", "2024-06-30T23:59:60Z"],
                      "no leap seconds: most libraries cannot read them"),
    "date": case({}, ["2024-02-29", "2000-02-29", "2023-12-31"],
                 ["2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01"]),
    "time": case({}, ["23:59:59Z", "12:00:00.5+02:00"], ["24:00:00Z", "12:00:00", "23:59:60Z"], "no leap seconds"),
    "duration": case({}, ["P1DT2H", "P3W"], ["P", "1D", "PT1D"]),
    "email": case({}, ["a.b@example.org"], ["a", "a@", "@b", "a..b@example.org"]),
    "hostname": case({}, ["example.org", "a"], ["-a", "a_b", ""]),
    "ipv4": case({}, ["127.0.0.1", "255.255.255.255"], ["256.1.1.1", "1.2.3"]),
    "ipv6": case({}, ["::1", "2001:db8::8a2e:370:7334"], ["1::2::3", "12345::", ":"]),
    "uri": case({}, ["https://example.org/a?b=c#d", "urn:x:y"], ["/a", "a b", "//example.org"]),
    "uuid": case({}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "123e4567-e89b-12d3-a456-42661417400g"]),
}  # fmt: skip
OTHER_FORMATS = ("idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template", "json-pointer",
                 "relative-json-pointer", "regex")  # fmt: skip
REFUSED: dict[str, Any] = {
    "$vocabulary": {"$vocabulary": {DRAFT + "core": True}},
    "$dynamicAnchor": {"$dynamicAnchor": "x"},
    "$dynamicRef": {"$dynamicRef": "#x"},
    "contains": {"type": "array", "contains": {"type": "string"}},
    "dependentSchemas": {"dependentSchemas": {"a": {"required": ["b"]}}},
    "propertyNames": {"propertyNames": {"pattern": "^a"}},
    "if": {"if": {"type": "string"}},
    "then": {"then": {"minLength": 2}},
    "else": {"else": False},
    "not": {"not": {"type": "string"}},
    "maxContains": {"maxContains": 1},
    "minContains": {"minContains": 1},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "unevaluatedItems": {"unevaluatedItems": False},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "contentEncoding": {"contentEncoding": "base64"},
    "contentMediaType": {"contentMediaType": "application/json"},
    "contentSchema": {"contentSchema": {}},
}
COMMENTS: dict[str, Any] = {
    "$id": "https://example.org/schema", "$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "c",
    "title": "t", "description": "d", "default": "x", "deprecated": True, "readOnly": True, "writeOnly": False,
    "examples": [None],
}  # fmt: skip

HEAD = """\
# JSON Schema: what is enforced

Every keyword of draft 2020-12, as `json_schema`, `response_format` and required tool calls have it
([grammars](grammars.md)). This page is made by `make docs`, which compiles a schema per keyword and asks whether the
values shown can be said under it. Beyond that, the tests say random things under random schemas, and hold all that
comes to an end against `jsonschema`.

- **enforced**: no answer that has come to its end (`stop_type: eos`) is invalid.
- **400**: it cannot be enforced; the error names it by its path. So does a keyword that does not exist.
- **comment**: it asks for nothing; so does a keyword that begins with `x-`.

What an answer never has, though it would be valid: properties in another order than the schema's; names and strings
with `\\u` escapes; numbers with an exponent where there are bounds; whole numbers with a fraction of zeros; more than
32 blanks and line ends in a row.
"""


def keywords(vocabulary: str) -> list[str]:
    """Return the keywords of a vocabulary, from its own metaschema."""
    found: dict[str, Any] = REGISTRY.contents(DRAFT + vocabulary)["properties"]
    return list(found)


def accepts(compiler: Compiler, schema: Any, value: Any) -> bool:
    """Whether a value can be said, as ``json.dumps`` writes it. RequestError if the schema is refused."""
    return accepts_text(compiler, json.dumps(schema), json.dumps(value, ensure_ascii=False))


def accepts_text(compiler: Compiler, source: str, text: str) -> bool:
    """Whether a text can be said, byte by byte."""
    grammar = compiler.compile(source)
    eog = min(compiler.context.tokenizer.eog)
    return all(grammar.accept(byte) for byte in text.encode()) and (grammar.ended or grammar.accept(eog))


def place(compiler: Compiler, schema: Any) -> str | None:
    """Return what the refusal of a schema names; an error if it is not refused."""
    try:
        compiler.compile(json.dumps(schema))
    except RequestError as error:
        return error.param
    raise AssertionError(f"{schema} is not refused")


def state(compiler: Compiler, keyword: str) -> tuple[str, str, str]:
    """Return what is done with a keyword, an example, and a note."""
    if keyword in ENFORCED:
        return _enforced(compiler, ENFORCED[keyword])
    if keyword in REFUSED:
        if place(compiler, REFUSED[keyword]) != keyword:
            raise AssertionError(f"the refusal of {keyword} does not name it")
        return "400", f"`{json.dumps(REFUSED[keyword])}`", ""
    schema = {"type": "integer", keyword: COMMENTS[keyword]}
    if not accepts(compiler, schema, 7) or accepts(compiler, schema, "x"):
        raise AssertionError(f"{keyword} asks for something")
    return "comment", "", "at the root only" if keyword == "$id" else ""


def _enforced(compiler: Compiler, cases: list[Case]) -> tuple[str, str, str]:
    for one in cases:
        for value, wanted in [*((value, True) for value in one.valid), *((value, False) for value in one.invalid)]:
            if accepts(compiler, one.schema, value) is not wanted:
                raise AssertionError(f"{value!r} under {one.schema}")
    first = cases[0]
    shown = [_code(first.valid[-1]), f"not {_code(first.invalid[0])}"]
    note = "; ".join(one.note for one in cases if one.note)
    return "enforced", f"{_code(first.schema)}: {', '.join(shown)}", note


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def lines(compiler: Compiler) -> Iterator[str]:
    """Yield the page, line by line."""
    yield HEAD
    for vocabulary in VOCABULARIES:
        yield f"\n## {vocabulary}\n\n| Keyword | | For example | |\n|---|---|---|---|"
        for keyword in keywords(vocabulary):
            yield f"| `{keyword}` | {' | '.join(state(compiler, keyword))} |"
    yield "\n## Formats\n\n| Format | | For example | |\n|---|---|---|---|"
    for name, one in FORMATS.items():
        what, _, note = _enforced(compiler, [Case({"format": name}, one.valid, one.invalid, one.note)])
        yield f"| `{name}` | {what} | {_code(one.valid[-1])}, not {_code(one.invalid[0])} | {note} |"
    for name in OTHER_FORMATS:
        if place(compiler, {"format": name}) != "format":
            raise AssertionError(f"the refusal of {name} does not name it")
        yield f"| `{name}` | 400 | | |"


def page() -> str:
    """Return the page."""
    from support.toy import N_VOCAB, ToyTokenizer

    return "\n".join(lines(Compiler("json_schema", GrammarContext(ToyTokenizer(), N_VOCAB)))) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    print(page(), end="")
