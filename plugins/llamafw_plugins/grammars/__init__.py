"""Grammars for constrained responses: GBNF, JSON Schema, Lark and regular expressions, all enforced by llguidance."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

from llamafw import App, GrammarCompiler, GrammarContext, Register, Tokenizer, hookimpl

KINDS = ("gbnf", "json_schema", "lark", "regex")


@hookimpl
def register_grammars(register: Register) -> None:
    """Register one compiler per kind of grammar."""
    for kind in KINDS:
        register(kind, partial(_create_compiler, kind))


def _create_compiler(kind: str, context: GrammarContext) -> GrammarCompiler:
    from llamafw_plugins.grammars.compiler import LlguidanceCompiler

    return LlguidanceCompiler(kind, context)


@hookimpl
def model_loaded(app: App) -> None:
    """Build the model's token table in the background, because it would delay the first grammar by 0.2 s."""
    threading.Thread(target=_build_token_table, args=(app.loaded.tokenizer,), name="grammar table").start()


def _build_token_table(tokenizer: Tokenizer) -> None:
    from llamafw_plugins.grammars.compiler import token_table

    with suppress(Exception):  # the first request with a grammar meets the same error and reports it to its client
        token_table(tokenizer)
