"""GBNF: the texts that a grammar allows, compared with a regular expression, and errors in grammars."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import GrammarContext, RequestError
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.toy_model import EURO_TAIL

Language = Callable[[str, str], Callable[[str], bool]]
pytestmark = pytest.mark.inventory("G-01", "E-032", "C-093")

EQUIVALENT = [
    ('root ::= "ab" "c"', "abc"),
    ('root ::= "a" "bc" | "ab" "d"', "abc|abd"),  # a lexer that takes the longest match would lose "abc"
    ("root ::= [a-c]{2,3}", "[a-c]{2,3}"),
    ('root ::= ("a" | "b")* "c"?', "[ab]*c?"),
    ('root ::= "ab"{2}', "(ab){2}"),
    ('root ::= "a"{,2} "b"{1,}', "a{,2}b+"),
    ("root ::= [^a]+ # comment\n", "[^a]+"),
    ('root ::= x-1 "c"\nx-1 ::= "a" |\n   "b"\n', "[ab]c"),
    ('root ::= (\n "a"\n "b" )? "c"', "(ab)?c"),
    ("root ::= .", "."),
    ('root ::= "" | "b"', "b?"),
    (r'root ::= "\x61\u0062" [\]\-c]', r"ab[\]\-c]"),
    ('root ::= ("a"?)* "b"', "a*b"),
    ('root ::= "é" [\\u00e0-\\u00ff]', "é[à-ÿ]"),
]


@pytest.mark.parametrize(("gbnf", "regex"), EQUIVALENT)
@given(data=st.data())
def test_gbnf_matches_the_same_texts_as_a_regex(language: Language, gbnf: str, regex: str, data: st.DataObject) -> None:
    matches = language("gbnf", gbnf)
    for text in data.draw(st.lists(st.text("abcdé]-\n", max_size=6), max_size=4)):
        assert matches(text) == bool(re.fullmatch(regex, text, re.S)), text

    text = data.draw(st.from_regex(re.compile(regex, re.S), fullmatch=True))
    assert matches(text), text


def test_recursive_rules_match_nested_text(language: Language) -> None:
    matches = language("gbnf", 'root ::= "(" root ")" | "x"')
    assert all(matches("(" * n + "x" + ")" * n) for n in (0, 1, 50))
    assert not any(map(matches, ["(x", "x)", "()", ""]))


def test_arithmetic_grammar_allows_only_expressions(language: Language) -> None:
    matches = language(
        "gbnf",
        """
root  ::= (expr "=" ws term "\\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \\t\\n]*
""",
    )
    assert matches("a1 +(2*b) = 7\nx=y\n")
    assert not matches("a1 + = 7\n")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the rule 'root' is missing"),
        ('other ::= "x"', "the rule 'root' is missing"),
        ("root ::= (", "line 1: expected ')'"),
        ('root ::= "x', "line 1: a literal or character class is not closed"),
        ("root ::= [a", "line 1: a literal or character class is not closed"),
        ("root ::= a\n\nb ::= nothing", "line 1: the rule 'a' is not defined"),
        ('root ::= "a"\nroot ::= "b"', "line 2: the rule 'root' is defined twice"),
        ('root ::= root "x" | "x"', "the rule 'root' is left-recursive"),
        ('root ::= a\na ::= b? root\nb ::= "x"', "is left-recursive"),
        ('root ::= "a"{3,2}', "the repetition {3,2} has bounds in the wrong order"),
        ('root ::= "a"{99999}', "the repetition count 99999 exceeds the maximum of 2000"),
        ('root ::= "a"{x}', "expected a number"),
        (r'root ::= "\q"', r"unknown escape sequence \q"),
        (r'root ::= "\ud800"', "is not a Unicode character"),
        ("root ::= [z-a]", "the range z-a has bounds in the wrong order"),
        ("root ::= []", "an empty character class matches nothing"),
        ("root = x", "expected '::='"),
        ('root ::= "a" ) "b"', "unexpected ')'"),
        ("root ::= $", "unexpected '$'"),
        ("root ::= " + "(" * 1000 + '"a"' + ")" * 1000, "parentheses are nested more than 32 levels deep"),
        ('root ::= "' + "x" * 70_000 + '"', "it has 70011 characters; the maximum is 65536"),
    ],
)
def test_invalid_grammars_are_refused(language: Language, source: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        language("gbnf", source)("x")


def test_ambiguity_does_not_slow_parsing_down(language: Language) -> None:
    """The grammar consists of 2**24 optional letters."""
    doubling = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(24)) + 'r24 ::= "a"?\n'
    assert language("gbnf", doubling)("aaaa")


def test_masks_agree_with_accept(context: GrammarContext) -> None:
    """A mask allows exactly the tokens that would be accepted, also within characters of several tokens."""
    compiler = LlguidanceCompiler("gbnf", context)
    source = 'root ::= "a" [€❤]* "b"'
    n_checked = 0
    prefix: list[int] = []
    for token in "a€❤".encode():
        grammar = compiler.compile(source)
        assert all(grammar.accept(earlier) for earlier in prefix)
        logits = np.zeros(context.n_vocab, np.float32)
        grammar.mask(logits)

        # EURO_TAIL is the same byte as another token, and a mask may allow only one of the two.
        for other in set(range(context.n_vocab)) - {EURO_TAIL}:
            fresh = compiler.compile(source)
            assert all(fresh.accept(earlier) for earlier in prefix)
            assert fresh.accept(other) == (logits[other] == 0), other
            n_checked += 1
        prefix.append(token)
    assert n_checked == 7 * (context.n_vocab - 1)
