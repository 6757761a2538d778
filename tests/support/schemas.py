"""Random JSON Schemas for hypothesis, and models of random scores that answer under them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Context, Decimal, setcontext
from typing import Any

import jsonschema
import numpy as np
from hypothesis import strategies as st

from llamafw import Floats, Grammar
from support.toy import EOS, N_VOCAB

Validator = jsonschema.Draft202012Validator
NAMES = ("a", "b", "ab", "é", 'q"', "b\\", "x/y", "", "\n", "$ref", "type")
PATTERNS = (
    "a",
    "^a",
    "a$",
    "^a*$",
    "^(ab|c)+$",
    "b[0-9]",
    "^[^a-c]{2}$",
    r"^\d+$",
    r"\D",
    r"^\w+\s\S*$",
    r"\W",
    "^.{1,3}$",
    "^a|b$",
    "(^x|y$)",
    "",
    "^$",
    r"^[\w.-]+@[\w-]+$",
    r"\.",
    r"^[^\d]$",
    r"^\u00e9?$",
    "^(a|b)*?c",
    r"^[\s\S]*$",
    r'^"\\$',
    r"\/",
    "a{2,3}",
    "^é+$",
    r"a\$",
)
NAME_PATTERNS = ("a", "^a", "a$", "^a*$", "^b$", r"^\w+$", r"\W", r"^\d", "^(q|b)", "^.$", "")
FORMATS = ("date", "time", "date-time", "uuid", "email", "uri", "ipv4", "ipv6", "hostname", "duration")

numbers = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([0, 0.5, -0.25, 0.1, 1e-7, 2.0, 1e15, 2**53, -(2**53) + 1, 2**62, 123456.789, 1e21]),
    st.floats(-1000, 1000, allow_nan=False).map(lambda number: round(number, 3)),
)
texts = st.one_of(st.sampled_from(NAMES), st.text('abé"\\/\n €😀', max_size=4))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=4,
)
counts = st.integers(0, 3)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A dictionary with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """All fields of several dictionaries."""
    return st.tuples(*parts).map(lambda found: {key: value for one in found for key, value in one.items()})


NUMBER = some(
    minimum=numbers,
    maximum=numbers,
    exclusiveMinimum=numbers,
    exclusiveMaximum=numbers,
    multipleOf=st.sampled_from([1, 2, 3, 0.5, 0.1, 2.5, 10]),
)
STRING = some(minLength=counts, maxLength=st.integers(1, 8), pattern=st.sampled_from(PATTERNS))
FORMAT = st.sampled_from(FORMATS).map(lambda name: {"format": name})
VALUE = st.one_of(
    st.lists(values, min_size=1, max_size=4).map(lambda found: {"enum": found}),
    values.map(lambda value: {"const": value}),
)


def typed(name: str, fields: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return fields.map(lambda found: {"type": name, **found})


def array(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return some(items=inner, prefixItems=st.lists(inner, min_size=1, max_size=3), minItems=counts, maxItems=counts)


def object_(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names, patterns = st.sampled_from(NAMES), st.sampled_from(NAME_PATTERNS)
    return some(
        properties=st.dictionaries(names, inner, max_size=4),
        required=st.lists(names, max_size=2, unique=True),
        additionalProperties=inner,
        patternProperties=st.dictionaries(patterns, inner, max_size=2),
        minProperties=st.integers(0, 2),
        maxProperties=counts,
    )


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        several.map(lambda found: {"anyOf": found}),
        several.map(lambda found: {"allOf": found}),
        several.map(lambda found: {"oneOf": found}),
    )


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["null", "integer", "number", "string", "array", "object", "boolean"])
    several = st.lists(names, min_size=1, max_size=3, unique=True).map(lambda found: {"type": found})
    return st.one_of(
        typed("array", array(inner)),
        typed("object", object_(inner)),
        combined(inner),
        merged(combined(inner), st.one_of(NUMBER, STRING, array(inner), object_(inner))),
        merged(several, NUMBER, STRING, array(inner)),
        merged(object_(inner), array(inner)),
        typed("object", merged(object_(inner), combined(inner))),
    )


LEAVES = st.one_of(
    st.just({}),
    st.just(True),
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    typed("integer", NUMBER),
    typed("number", NUMBER),
    typed("string", STRING),
    NUMBER,
    STRING,
    typed("string", FORMAT),
    merged(STRING, FORMAT),
    VALUE,
    merged(VALUE, NUMBER),
    merged(VALUE, STRING),
    st.sampled_from(["#", "#/$defs/x", "#/$defs/y"]).map(lambda target: {"$ref": target}),
    st.just(False),
)
SCHEMAS = st.recursive(LEAVES, nested, max_leaves=6)


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of every keyword that is enforced, in every combination; some are not satisfiable."""
    roots = SCHEMAS.filter(lambda schema: isinstance(schema, dict))
    return st.tuples(roots, SCHEMAS, SCHEMAS).map(
        lambda found: {**found[0], "$defs": {"x": found[1], "y": found[2]}} if "$ref" in json.dumps(found) else found[0]
    )


class Adversary:
    """Scores that try to break a schema: random, but fond of what the schema itself says, and of what ends things."""

    def __init__(self, schema: Any, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.bias = np.zeros(N_VOCAB, np.float32)
        self.bias[32:127] += 2
        self.words = [json.dumps(word, ensure_ascii=False).encode() for word in _scalars(schema)]
        for byte in b"".join([*self.words, str(self.random.choice(['\\"u0061', "0123456789", "eE+-.", ""])).encode()]):
            self.bias[byte] = 3
        self.bias[[34, 44, 93, 125]] += 1.5  # what ends strings, arrays and objects
        self.bias[EOS] = self.random.choice([0, 8])
        self.word = b""  # being said

    def row(self, n_said: int) -> Floats:
        row = (self.random.standard_normal(N_VOCAB) * 1.5 + self.bias).astype(np.float32)
        if self.words and not self.word and self.random.integers(3) == 0:
            self.word = self.words[self.random.integers(len(self.words))]
        if self.word:
            row[self.word[0]] += 20
            self.word = self.word[1:]
        if n_said > 60 and self.random.integers(2):
            row[[34, 93, 125, EOS]] += 30
            row[[44, 92, 123, 91]] -= 15
        return row


POOL: list[Any] = [None, True, 0, 1, -1, 2.5, 10**16, "", "a", "b1", "2024-02-30", [], [1], {}, {"a": 1}]


def forged(value: Any, schema: Any, random: np.random.Generator) -> str:
    """Return JSON like a value that was said, with something replaced, added, left out, or written in another way."""
    for _ in range(random.integers(1, 3)):
        value = _changed(value, [*POOL, *_scalars(schema)], random)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if random.integers(2):  # names written in another way
        text = re.sub(r'"([a-z])(?=[^"]*":)', lambda found: f'"\\u{ord(found[1]):04x}', text)
    return text


def _changed(value: Any, pool: list[Any], random: np.random.Generator) -> Any:
    other = pool[random.integers(len(pool))]
    if isinstance(value, list) and random.integers(4):
        found, at = list(value), int(random.integers(len(value) + 1))
        if at == len(value):
            return [*found, other]
        found[at : at + 1] = [[], [found[at]] * 2, [_changed(found[at], pool, random)]][random.integers(3)]
        return found
    if isinstance(value, dict) and random.integers(4):
        name = str(random.choice([*NAMES, *value]))
        kind = random.integers(4)
        if kind == 0:
            return {one: value[one] for one in value if one != name}
        if name in value:
            return {**value, name: _changed(value[name], pool, random)}
        return {**value, name: other} if kind == 1 else {name: other, **value}
    return other


def _scalars(schema: Any) -> list[Any]:
    """What a schema holds, and its neighbours."""
    if isinstance(schema, dict | list):
        parts = [*schema, *schema.values()] if isinstance(schema, dict) else schema
        return [one for part in parts for one in _scalars(part)]
    if isinstance(schema, int | float) and not isinstance(schema, bool):
        return [schema, schema + 1, schema - 1, schema + 0.001]
    return [schema]


def say(
    grammar: Grammar,
    row: Callable[[int], Floats],
    piece: Callable[[int], bytes],
    eog: set[int] | frozenset[int],
    most: int = 400,
) -> bytes | None:
    """Return what is said under a grammar; None if it is not at an end after ``most`` tokens.

    Every token is checked against the mask, and must be accepted if that allows it.
    """
    said = bytearray()
    for n in range(most):
        if grammar.ended:
            return bytes(said)
        scores = row(n)
        grammar.mask(scores)
        token = int(scores.argmax())
        if scores[token] == -np.inf:
            raise AssertionError(f"a dead end after {bytes(said)!r}")
        assert grammar.accept(token)
        if token in eog:
            return bytes(said)
        said += piece(token)
    return None


def check(schema: Any, text: bytes) -> Any:
    """Return what ``text`` says; raise unless it is JSON and valid against the schema. Numbers are exact."""
    setcontext(Context(prec=600))  # jsonschema divides
    value = json.loads(text.decode("utf-8"), parse_float=_number, parse_constant=_refuse)
    exact = json.loads(json.dumps(schema), parse_float=Decimal, object_hook=_with_patterns)
    validator = jsonschema.validators.validator_for(exact, default=Validator)
    validator(exact, format_checker=Validator.FORMAT_CHECKER).validate(value)
    return json.loads(text)


ASCII = {"$": r"\Z", r"\d": "[0-9]", r"\w": "[0-9A-Za-z_]", r"\W": "[^0-9A-Za-z_]"}


def _with_patterns(schema: Any) -> Any:
    """Write the patterns of names for Python, whose $ is before a line end, too, and whose sets are Unicode's."""
    found = schema.get("patternProperties")
    if not isinstance(found, dict):
        return schema
    names = [re.sub(r"\$|\\[dwW]", lambda part: ASCII[part[0]], name) for name in found]
    return {**schema, "patternProperties": dict(zip(names, found.values(), strict=True))}


def _number(text: str) -> Decimal:
    """A number, exactly, up to exponents that modulo can take; JSON sets no limit."""
    mantissa, _, exponent = text.lower().partition("e")
    return Decimal(mantissa).scaleb(max(-400, min(int(exponent or 0), 400)))


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
