"""Patterns of JSON Schema match the same strings as Python's ``re``, or are refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from llamafw_plugins.grammars.pattern import PatternError, to_rust
from support.json_schema import accepts, accepts_text

PATTERNS = [
    "a",
    "^a",
    "a$",
    "^a$",
    "^$",
    "",
    "^(a|b)+$",
    "^a|b$",
    "^a|b|c$",
    "(^a|b$)",
    "(^a|b)c",
    "a(b|c$)",
    "^(?:a|(b|^c))d",
    "^a{2}$",
    "^a{1,}b{0,2}$",
    "^a*?b+?$",
    "[abc]",
    "^[^abc]$",
    "^[a-c-]$",
    r"^[\]\\^]+$",
    "^[b^]$",
    r"^\d{2}$",
    r"^\D$",
    r"^\w\W$",
    r"^\s$",
    r"^\S+$",
    r"^[\d_]+$",
    r"^[^\d]$",
    r"^[^\w]$",
    r"^[\s\S]$",
    r"^\.$",
    r"^\/\-\$\^$",
    "^.$",
    "a.b",
    r"^\x61\u0062$",
    r"^\t\n$",
    r"^(?P<x>a)$",
    r"^[\x61-\x63]$",
    "^é❤$",
    "^[à-ÿ]$",
    "}",
    "^]$",
    "^(a(b(c|d)?)*)+$",
    r"^\$a\$$",
    "^^a$$",
    "a|",
    "^(a|)$",
    "^[a&&b]+$",
    "^[[a]+$",
]


@pytest.mark.inventory("G-02", "J-02")
@pytest.mark.filterwarnings("ignore:Possible (nested set|set intersection):FutureWarning")
@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_pattern_matches_as_in_python(compiler: LlguidanceCompiler, pattern: str, data: st.DataObject) -> None:
    python = re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern), 0 if r"\s" in pattern else re.ASCII)
    texts = data.draw(st.lists(st.text("abcdé❤0_-$/ \n\t^]&[}", max_size=5), max_size=3))
    texts.append(data.draw(st.from_regex(python, alphabet=st.characters(codec="utf-8"))))
    assert texts

    for text in texts:
        if any(char < " " and char not in "\b\t\n\f\r" or char == "\x7f" for char in text):
            continue  # a JSON string can only hold these characters as \u escapes, which responses do not use
        allowed = accepts(compiler, {"type": "string", "pattern": pattern}, text)
        if not re.search(r"\\[wWdDsS]|\.", pattern) or (text.isascii() and "\r" not in text):
            assert allowed == bool(python.search(text)), text
        assert not allowed or python.search(text), text
        assert not allowed or re.search(pattern, text), text  # also with the Unicode sets of Python


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not closed"),
        (")", "unbalanced"),
        ("[a", "the pattern is incomplete"),
        ("*", "nothing to repeat"),
        ("a**", "nothing to repeat"),
        ("a{2,1}", "bounds in the wrong order"),
        ("^*", "an anchor cannot be repeated"),
        ("a{,2}", "needs a lower bound"),
        ("[]", "empty character class"),
        ("[b-a]", "invalid range"),
        (r"[\w-z]", "invalid range"),
        (r"\q", "unknown escape"),
        (r"\A", "unknown escape"),
        ("\\", "the pattern is incomplete"),
        (r"a\b", "word boundaries"),
        (r"(a)\1", "back-references"),
        (r"(?<x>a)\k<x>", "back-references"),
        ("(?=a)", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(?i)a", "flags"),
        ("a^b", r"\^ in the middle of a pattern"),
        ("(a$|b)*", r"\$ in the middle of a pattern"),
        ("^a^", r"\^ in the middle of a pattern"),
        (r"\u12", "invalid hexadecimal digits"),
        (r"\ud800", "not a Unicode character"),
        (r"\u{110000}", "not a Unicode character"),
        (r"\pL", "needs a Unicode property"),
        (r"\x00", "control characters are not supported"),
        ("(" * 100 + ")" * 100, "nested more than 64 levels deep"),
        ("(^a|b)" * 10, r"\^ in the middle of a pattern is not supported"),
        ("|".join(["(^a|b)"] * 200), "too many alternatives"),
    ],
)
def test_invalid_or_unsupported_patterns_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        to_rust(pattern)


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        (r"^\p{L}+$", "aé", "a1"),
        (r"^[\p{Lu}\d]$", "É", "é"),
        (r"^\P{L}$", "1", "é"),
        (r"^\u{1F600}$", "😀", "😁"),
        (r"^\ud83d\ude00$", "😀", "😁"),
        (r"^[^]$", "\n", ""),
        (r"^\cJ$", "\n", "J"),
        (r"^(?<x>a)$", "a", "b"),
        (r"^[\b]$", "\b", "b"),
    ],
)
def test_syntax_of_ecma_262_is_supported(
    compiler: LlguidanceCompiler, pattern: str, allowed: str, refused: str
) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert accepts(compiler, schema, allowed)
    assert not accepts(compiler, schema, refused)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^\d$", "٣"),
        (r"^\D$", "٣"),
        (r"^\w$", "é"),
        (r"^\W$", "é"),
        (r"^\S$", "\ufeff"),
        (r"^\s$", "\ufeff"),
        (r"^[^\d]$", "٣"),
        (r"^[\D]$", "٣"),
        (r"^[^\D]$", "٣"),
        ("^.$", "\u2028"),
    ],
)
def test_strings_that_dialects_disagree_about_are_refused(
    compiler: LlguidanceCompiler, pattern: str, text: str
) -> None:
    """Some dialects say that the text matches, others that it does not."""
    assert not accepts(compiler, {"type": "string", "pattern": pattern}, text)


def test_patterns_of_names_follow_ecma_262(compiler: LlguidanceCompiler) -> None:
    schema = {"type": "object", "patternProperties": {r"^\W$": {"type": "null"}}}
    assert accepts(compiler, schema, {"é": None})
    assert not accepts(compiler, schema, {"é": 1})
    assert accepts(compiler, schema, {"a": 1})


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("^b$", ["b"], False),
        ("^(b|c/)$", ["c/", 'a"', "b"], False),
        ("^a+b?$", ["a", "ab"], True),
        ("^[ab]$", ["b"], True),
        ("b", ["b"], True),
    ],
)
def test_nothing_follows_when_all_names_of_a_pattern_are_used(
    compiler: LlguidanceCompiler, pattern: str, names: list[str], others: bool
) -> None:
    named = {"properties": {name: {} for name in names}, "patternProperties": {pattern: {"maximum": 5}}}
    schema = {"type": "object", **named, "additionalProperties": False}
    text = json.dumps(dict.fromkeys(names, 3), separators=(",", ":"))
    assert accepts_text(compiler, json.dumps(schema), text)
    assert not accepts_text(compiler, json.dumps(schema), text.replace(":3", ":7"))
    grammar = compiler.compile(json.dumps(schema))
    assert all(grammar.accept(byte) for byte in text[:-1].encode())
    logits = np.zeros(compiler.context.n_vocab, np.float32)
    grammar.mask(logits)
    assert np.isfinite(logits[ord(",")]) == others
