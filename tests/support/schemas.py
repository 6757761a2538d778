"""Random JSON Schemas for hypothesis, random responses under them, and their validation."""

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
from support.toy_model import EOS, N_VOCAB

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


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for dictionaries with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for the union of several dictionaries."""
    return st.tuples(*parts).map(lambda fields: {key: value for part in fields for key, value in part.items()})


NUMBER = optional(
    minimum=numbers,
    maximum=numbers,
    exclusiveMinimum=numbers,
    exclusiveMaximum=numbers,
    multipleOf=st.sampled_from([1, 2, 3, 0.5, 0.1, 2.5, 10]),
)
STRING = optional(minLength=counts, maxLength=st.integers(1, 8), pattern=st.sampled_from(PATTERNS))
FORMAT = st.sampled_from(FORMATS).map(lambda name: {"format": name})
VALUE = st.one_of(
    st.lists(values, min_size=1, max_size=4).map(lambda items: {"enum": items}),
    values.map(lambda value: {"const": value}),
)


def typed(name: str, fields: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return fields.map(lambda drawn: {"type": name, **drawn})


def array(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return optional(items=inner, prefixItems=st.lists(inner, min_size=1, max_size=3), minItems=counts, maxItems=counts)


def object_(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names, patterns = st.sampled_from(NAMES), st.sampled_from(NAME_PATTERNS)
    return optional(
        properties=st.dictionaries(names, inner, max_size=4),
        required=st.lists(names, max_size=2, unique=True),
        additionalProperties=inner,
        patternProperties=st.dictionaries(patterns, inner, max_size=2),
        minProperties=st.integers(0, 2),
        maxProperties=counts,
    )


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    branches = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        branches.map(lambda drawn: {"anyOf": drawn}),
        branches.map(lambda drawn: {"allOf": drawn}),
        branches.map(lambda drawn: {"oneOf": drawn}),
    )


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["null", "integer", "number", "string", "array", "object", "boolean"])
    types = st.lists(names, min_size=1, max_size=3, unique=True).map(lambda drawn: {"type": drawn})
    return st.one_of(
        typed("array", array(inner)),
        typed("object", object_(inner)),
        combined(inner),
        merged(combined(inner), st.one_of(NUMBER, STRING, array(inner), object_(inner))),
        merged(types, NUMBER, STRING, array(inner)),
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
    """Return a strategy for schemas that combine all enforced keywords; some are not satisfiable."""
    roots = SCHEMAS.filter(lambda schema: isinstance(schema, dict))
    return st.tuples(roots, SCHEMAS, SCHEMAS).map(_with_definitions)


def _with_definitions(schemas: tuple[dict[str, Any], Any, Any]) -> dict[str, Any]:
    root, x, y = schemas
    return {**root, "$defs": {"x": x, "y": y}} if "$ref" in json.dumps(schemas) else root


class AdversarialLogits:
    """Random logits that try to break a schema.

    They prefer values that the schema itself contains, and characters that end strings, arrays and objects.
    """

    def __init__(self, schema: Any, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.bias = np.zeros(N_VOCAB, np.float32)
        self.bias[32:127] += 2
        self.words = [json.dumps(word, ensure_ascii=False).encode() for word in _scalars(schema)]
        for byte in b"".join([*self.words, str(self.random.choice(['\\"u0061', "0123456789", "eE+-.", ""])).encode()]):
            self.bias[byte] = 3
        self.bias[list(b'",]}')] += 1.5
        self.bias[EOS] = self.random.choice([0, 8])
        self.word = b""  # the rest of the word that is being written

    def row(self, n_generated: int) -> Floats:
        """Return the logits after ``n_generated`` tokens, ``(N_VOCAB,)``."""
        row = (self.random.standard_normal(N_VOCAB) * 1.5 + self.bias).astype(np.float32)
        if self.words and not self.word and self.random.integers(3) == 0:
            self.word = self.words[self.random.integers(len(self.words))]
        if self.word:
            row[self.word[0]] += 20
            self.word = self.word[1:]
        if n_generated > 60 and self.random.integers(2):  # come to an end
            row[[*b'"]}', EOS]] += 30
            row[list(b",\\{[")] -= 15
        return row


REPLACEMENTS: list[Any] = [None, True, 0, 1, -1, 2.5, 10**16, "", "a", "b1", "2024-02-30", [], [1], {}, {"a": 1}]


def alter_json(value: Any, schema: Any, random: np.random.Generator) -> str:
    """Return JSON text of ``value`` after a few random changes: parts replaced, added, removed or escaped."""
    for _ in range(random.integers(1, 3)):
        value = _alter(value, [*REPLACEMENTS, *_scalars(schema)], random)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if random.integers(2):  # escape the first letter of each name
        text = re.sub(r'"([a-z])(?=[^"]*":)', lambda match: f'"\\u{ord(match[1]):04x}', text)
    return text


def _alter(value: Any, replacements: list[Any], random: np.random.Generator) -> Any:
    other = replacements[random.integers(len(replacements))]
    if isinstance(value, list) and random.integers(4):
        items, i = list(value), int(random.integers(len(value) + 1))
        if i == len(value):
            return [*items, other]
        items[i : i + 1] = [[], [items[i]] * 2, [_alter(items[i], replacements, random)]][random.integers(3)]
        return items
    if isinstance(value, dict) and random.integers(4):
        name = str(random.choice([*NAMES, *value]))
        kind = random.integers(4)
        if kind == 0:
            return {key: value[key] for key in value if key != name}
        if name in value:
            return {**value, name: _alter(value[name], replacements, random)}
        return {**value, name: other} if kind == 1 else {name: other, **value}
    return other


def _scalars(schema: Any) -> list[Any]:
    """Return the scalars in a schema, and numbers close to them."""
    if isinstance(schema, dict | list):
        parts = [*schema, *schema.values()] if isinstance(schema, dict) else schema
        return [scalar for part in parts for scalar in _scalars(part)]
    if isinstance(schema, int | float) and not isinstance(schema, bool):
        return [schema, schema + 1, schema - 1, schema + 0.001]
    return [schema]


def generate(
    grammar: Grammar,
    row: Callable[[int], Floats],
    piece: Callable[[int], bytes],
    eog: set[int] | frozenset[int],
    max_tokens: int = 400,
) -> bytes | None:
    """Return the text of the likeliest tokens under a grammar; None if it has not ended after ``max_tokens`` tokens.

    The grammar must allow at least one token at each step, and accept the tokens that its mask allows.

    Parameters
    ----------
    grammar : Grammar
        In its initial state.
    row : callable
        Returns the logits after a number of tokens, ``(n_vocab,)``.
    piece : callable
        Returns the bytes of a token.
    eog : set of int
        Tokens that end a generation.
    """
    text = bytearray()
    for n in range(max_tokens):
        if grammar.ended:
            return bytes(text)
        logits = row(n)
        grammar.mask(logits)
        token = int(logits.argmax())
        if logits[token] == -np.inf:
            raise AssertionError(f"no token is allowed after {bytes(text)!r}")
        assert grammar.accept(token)
        if token in eog:
            return bytes(text)
        text += piece(token)
    return None


def parse_and_validate(schema: Any, text: bytes) -> Any:
    """Return the value of a JSON text; ValidationError unless it is valid against the schema, with exact numbers."""
    setcontext(Context(prec=600))  # for the division of multipleOf in jsonschema
    value = json.loads(text.decode("utf-8"), parse_float=_parse_number, parse_constant=_refuse_constant)
    exact = json.loads(json.dumps(schema), parse_float=Decimal, object_hook=_with_python_patterns)
    validator = jsonschema.validators.validator_for(exact, default=Validator)
    validator(exact, format_checker=Validator.FORMAT_CHECKER).validate(value)
    return json.loads(text)


PYTHON_PATTERNS = {"$": r"\Z", r"\d": "[0-9]", r"\w": "[0-9A-Za-z_]", r"\W": "[^0-9A-Za-z_]"}


def _with_python_patterns(schema: Any) -> Any:
    """Rewrite ``patternProperties`` for Python, where ``$`` also matches before a line end and sets are Unicode."""
    properties = schema.get("patternProperties")
    if not isinstance(properties, dict):
        return schema
    patterns = [re.sub(r"\$|\\[dwW]", lambda match: PYTHON_PATTERNS[match[0]], pattern) for pattern in properties]
    patterns = [
        pattern or "(?:)" for pattern in patterns
    ]  # jsonschema ignores an empty pattern, which matches any name
    return {**schema, "patternProperties": dict(zip(patterns, properties.values(), strict=True))}


def _parse_number(text: str) -> Decimal:
    """Return a number exactly.

    Exponents are cut at ±400, where the modulo of Decimal still works.
    """
    mantissa, _, exponent = text.lower().partition("e")
    return Decimal(mantissa).scaleb(max(-400, min(int(exponent or 0), 400)))


def _refuse_constant(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
