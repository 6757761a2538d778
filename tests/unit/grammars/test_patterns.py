"""Patterns of JSON Schema: read by us they match what Python's ``re`` says they do, or are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafw_plugins.grammars.compiler import Compiler
from llamafw_plugins.grammars.pattern import PatternError, to_rust
from support.json_schema import accepts

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
def test_it_matches_where_python_does(compiler: Compiler, pattern: str, data: st.DataObject) -> None:
    python = re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern), 0 if r"\s" in pattern else re.ASCII)
    texts = data.draw(st.lists(st.text("abcdé❤0_-$/ \n\t^]&[}", max_size=5), max_size=3))
    texts.append(data.draw(st.from_regex(python, alphabet=st.characters(codec="utf-8"))))
    for text in texts:
        if any(char < " " and char not in "\b\t\n\f\r" or char == "\x7f" for char in text):
            continue  # they cannot be written
        ours = accepts(compiler, {"type": "string", "pattern": pattern}, text)
        if not re.search(r"\\[wWdDsS]|\.", pattern) or (text.isascii() and "\r" not in text):
            assert ours == bool(python.search(text)), text
        assert not ours or python.search(text), text
        assert not ours or re.search(pattern, text), text  # to Python's own reading, too


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not closed"),
        (")", "unbalanced"),
        ("[a", "ends in the middle"),
        ("*", "nothing to repeat"),
        ("a**", "nothing to repeat"),
        ("a{2,1}", "is empty"),
        ("^*", "an anchor cannot be repeated"),
        ("a{,2}", "least number"),
        ("[]", "empty class"),
        ("[b-a]", "range"),
        (r"[\w-z]", "range"),
        (r"\q", "unknown escape"),
        (r"\A", "unknown escape"),
        ("\\", "middle"),
        (r"a\b", "word boundaries"),
        (r"(a)\1", "back-references"),
        (r"(?<x>a)\k<x>", "back-references"),
        ("(?=a)", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(?i)a", "flags"),
        ("a^b", "within a pattern"),
        ("(a$|b)*", "within a pattern"),
        ("^a^", "within a pattern"),
        (r"\u12", "no character"),
        (r"\ud800", "no character"),
        (r"\u{110000}", "no character"),
        (r"\pL", "name of a property"),
        (r"\x00", "control character"),
        ("(" * 100 + ")" * 100, "nested too deeply"),
        ("(^a|b)" * 10, "within a pattern|too many"),
        ("|".join(["(^a|b)"] * 200), "too many alternatives"),
    ],
)
def test_what_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        to_rust(pattern)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
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
def test_what_only_ecma_262_has(compiler: Compiler, pattern: str, yes: str, no: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert accepts(compiler, schema, yes)
    assert not accepts(compiler, schema, no)


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
def test_where_dialects_differ_it_is_not_said(compiler: Compiler, pattern: str, text: str) -> None:
    """To one the text matches, to another it does not: no answer is like it."""
    assert not accepts(compiler, {"type": "string", "pattern": pattern}, text)


def test_names_are_read_as_ecma_262_has_them(compiler: Compiler) -> None:
    schema = {"type": "object", "patternProperties": {r"^\W$": {"type": "null"}}}
    assert accepts(compiler, schema, {"é": None})
    assert not accepts(compiler, schema, {"é": 1})
    assert accepts(compiler, schema, {"a": 1})
