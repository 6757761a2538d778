"""Tokens may begin and end within characters, terminals and rules of a grammar."""

from __future__ import annotations

import numpy as np
import pytest

from llamafw import Grammar, GrammarContext
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.toy_model import EOS, EOT, EURO_HEAD, EURO_TAIL, HELLO, WORLD


def compile_gbnf(context: GrammarContext, source: str) -> Grammar:
    return LlguidanceCompiler("gbnf", context).compile(source)


def allowed_tokens(grammar: Grammar, context: GrammarContext) -> set[int]:
    logits = np.zeros(context.n_vocab, np.float32)
    grammar.mask(logits)
    return set(np.flatnonzero(logits == 0).tolist())


@pytest.mark.inventory("G-01", "S-02")
def test_end_tokens_are_allowed_where_the_grammar_may_end(context: GrammarContext) -> None:
    grammar = compile_gbnf(context, 'root ::= "a" "b"?')
    assert not grammar.accept(EOS)
    assert grammar.accept(ord("a"))
    assert not grammar.ended
    assert allowed_tokens(grammar, context) == {ord("b"), EOS, EOT}
    assert grammar.accept(ord("b"))
    assert grammar.ended


@pytest.mark.parametrize("end_token", [EOS, EOT])
def test_every_end_of_generation_token_ends_a_grammar(context: GrammarContext, end_token: int) -> None:
    grammar = compile_gbnf(context, 'root ::= "a" "b"?')
    assert grammar.accept(ord("a"))
    assert grammar.accept(end_token)
    assert grammar.ended


@pytest.mark.inventory("G-01")
def test_a_token_may_span_several_terminals_and_rules(context: GrammarContext) -> None:
    source = 'root ::= x "o" (" w" | "!") y\nx ::= "He" [k-m]{2}\ny ::= "or" "ld"?'
    grammar = compile_gbnf(context, source)
    assert allowed_tokens(grammar, context) == {ord("H"), HELLO}
    assert grammar.accept(HELLO)
    assert allowed_tokens(grammar, context) == {ord(" "), ord("!"), WORLD}
    assert grammar.accept(WORLD)
    assert grammar.ended
    assert not compile_gbnf(context, 'root ::= "Hell" [^o]').accept(HELLO)


@pytest.mark.inventory("G-01")
@pytest.mark.parametrize("source", ['root ::= "€" | "é"', "root ::= [€é]", "root ::= .", "root ::= [^a]"])
@pytest.mark.parametrize(
    "tokens",
    [
        (EURO_HEAD, EURO_TAIL),
        tuple("€".encode()),
        (EURO_HEAD, "€".encode()[2]),
        tuple("é".encode()),
    ],
)
def test_a_character_may_be_split_over_tokens(context: GrammarContext, source: str, tokens: tuple[int, ...]) -> None:
    grammar = compile_gbnf(context, source)
    for token in tokens:
        assert not grammar.ended
        assert EOS not in allowed_tokens(grammar, context)
        assert grammar.accept(token)
    assert grammar.ended


def test_an_incomplete_character_can_only_be_completed(context: GrammarContext) -> None:
    grammar = compile_gbnf(context, 'root ::= "€" | "é"')
    assert grammar.accept("€".encode()[0])
    assert "é".encode()[1] not in allowed_tokens(grammar, context)
    assert not grammar.accept(ord("a"))
