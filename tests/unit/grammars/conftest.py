"""Fixtures: grammars for the toy tokenizer, whose tokens are mostly single bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llamafw import GrammarContext
from llamafw_plugins.grammars import KINDS
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.toy_model import EOS, N_VOCAB, ToyTokenizer

Matches = Callable[[str], bool]


@pytest.fixture(scope="session")
def context() -> GrammarContext:
    return GrammarContext(ToyTokenizer(), N_VOCAB)


@pytest.fixture(scope="session")
def compiler(context: GrammarContext) -> LlguidanceCompiler:
    """Return a compiler of JSON Schemas."""
    return LlguidanceCompiler("json_schema", context)


@pytest.fixture(scope="session")
def language(context: GrammarContext) -> Callable[[str, str], Matches]:
    """Return a function: ``language(kind, source)(text)`` is whether the grammar allows ``text``, fed byte by byte."""
    compilers = {kind: LlguidanceCompiler(kind, context) for kind in KINDS}

    def compile_source(kind: str, source: str) -> Matches:
        def matches(text: str) -> bool:
            grammar = compilers[kind].compile(source)
            return all(grammar.accept(byte) for byte in text.encode()) and (grammar.ended or grammar.accept(EOS))

        return matches

    return compile_source
