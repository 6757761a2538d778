"""Grammars over the toy tokenizer, where a byte is a token."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llamafw import GrammarContext
from llamafw_plugins.grammars.compiler import Compiler
from support.toy import EOS, N_VOCAB, ToyTokenizer

Matches = Callable[[str], bool]


@pytest.fixture(scope="session")
def context() -> GrammarContext:
    return GrammarContext(ToyTokenizer(), N_VOCAB)


@pytest.fixture(scope="session")
def compiler(context: GrammarContext) -> Compiler:
    return Compiler("json_schema", context)


@pytest.fixture(scope="session")
def language(context: GrammarContext) -> Callable[[str, str], Matches]:
    """``language(kind, source)(text)``: whether the text is in the language, read byte by byte."""
    compilers = {kind: Compiler(kind, context) for kind in ("gbnf", "json_schema", "lark", "regex")}

    def compiled(kind: str, source: str) -> Matches:
        def matches(text: str) -> bool:
            grammar = compilers[kind].compile(source)
            return all(grammar.accept(byte) for byte in text.encode()) and (grammar.ended or grammar.accept(EOS))

        return matches

    return compiled
