"""GBNF against regular expressions of the same language, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import RequestError
from support.toy import EURO_TAIL

Language = Callable[[str, str], Callable[[str], bool]]
pytestmark = pytest.mark.inventory("G-01", "E-032", "C-093")

SAME = [
    ('root ::= "ab" "c"', "abc"),
    ('root ::= "a" "bc" | "ab" "d"', "abc|abd"),  # the longest match would lose the first
    ("root ::= [a-c]{2,3}", "[a-c]{2,3}"),
    ('root ::= ("a" | "b")* "c"?', "[ab]*c?"),
    ('root ::= "ab"{2}', "(ab){2}"),
    ('root ::= "a"{,2} "b"{1,}', "a{,2}b+"),
    ("root ::= [^a]+ # all but one\n", "[^a]+"),
    ('root ::= x-1 "c"\nx-1 ::= "a" |\n   "b"\n', "[ab]c"),
    ('root ::= (\n "a"\n "b" )? "c"', "(ab)?c"),
    ("root ::= .", "."),
    ('root ::= "" | "b"', "b?"),
    (r'root ::= "\x61\u0062" [\]\-c]', r"ab[\]\-c]"),
    ('root ::= ("a"?)* "b"', "a*b"),
    ('root ::= "é" [\\u00e0-\\u00ff]', "é[à-ÿ]"),
]


@pytest.mark.parametrize(("gbnf", "regex"), SAME)
@given(data=st.data())
def test_the_same_language(language: Language, gbnf: str, regex: str, data: st.DataObject) -> None:
    matches = language("gbnf", gbnf)
    for text in data.draw(st.lists(st.text("abcdé]-\n", max_size=6), max_size=4)):
        assert matches(text) == bool(re.fullmatch(regex, text, re.S)), text
    text = data.draw(st.from_regex(re.compile(regex, re.S), fullmatch=True))
    assert matches(text), text


def test_nesting(language: Language) -> None:
    matches = language("gbnf", 'root ::= "(" root ")" | "x"')
    assert all(matches("(" * n + "x" + ")" * n) for n in (0, 1, 50))
    assert not any(map(matches, ["(x", "x)", "()", ""]))


def test_an_arithmetic_grammar(language: Language) -> None:
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
        ("", "no rule 'root'"),
        ('other ::= "x"', "no rule 'root'"),
        ("root ::= (", "line 1: expected ')'"),
        ('root ::= "x', "ends within quotes"),
        ("root ::= [a", "ends within quotes or brackets"),
        ("root ::= a\n\nb ::= nothing", "line 1: there is no rule 'a'"),
        ('root ::= "a"\nroot ::= "b"', "line 2: the rule 'root' is defined twice"),
        ('root ::= root "x" | "x"', "left recursion"),
        ('root ::= a\na ::= b? root\nb ::= "x"', "left recursion"),
        ('root ::= "a"{3,2}', "is empty"),
        ('root ::= "a"{99999}', "at most 2000"),
        ('root ::= "a"{x}', "expected a number"),
        (r'root ::= "\q"', r"unknown escape \q"),
        (r'root ::= "\ud800"', "is no character"),
        ("root ::= [z-a]", "the range z-a is empty"),
        ("root ::= []", "matches nothing"),
        ("root = x", "expected '::='"),
        ('root ::= "a" ) "b"', "unexpected ')'"),
        ("root ::= $", "unexpected '$'"),
        ("root ::= " + "(" * 1000 + '"a"' + ")" * 1000, "nested too deeply"),
        ('root ::= "' + "x" * 70_000 + '"', "more than 65536 characters"),
    ],
)
def test_what_is_refused(language: Language, source: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        language("gbnf", source)("x")


def test_many_ways_to_read_it_take_no_longer(language: Language) -> None:
    doubling = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(24)) + 'r24 ::= "a"?\n'
    assert language("gbnf", doubling)("aaaa")


def test_masks_and_answers_agree(context: Any) -> None:
    """What a mask allows is what would be accepted, characters of several tokens included."""
    import numpy as np

    from llamafw_plugins.grammars.compiler import Compiler

    compiler = Compiler("gbnf", context)
    said: list[int] = []
    for token in "a€❤".encode():
        grammar = compiler.compile('root ::= "a" [€❤]* "b"')
        assert all(grammar.accept(one) for one in said)
        row = np.zeros(context.n_vocab, np.float32)
        grammar.mask(row)
        for other in set(range(context.n_vocab)) - {EURO_TAIL}:  # the same bytes as another token: one of them will do
            again = compiler.compile('root ::= "a" [€❤]* "b"')
            assert all(again.accept(one) for one in said)
            assert again.accept(other) == (row[other] == 0), other
        said.append(token)
