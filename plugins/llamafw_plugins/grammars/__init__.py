"""Languages that answers can be held to: GBNF, JSON Schema, Lark and regular expressions, all by llguidance."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

from llamafw import App, GrammarCompiler, GrammarContext, Register, Tokenizer, hookimpl

KINDS = ("gbnf", "json_schema", "lark", "regex")


@hookimpl
def register_grammars(register: Register) -> None:
    """Offer a compiler per kind of source."""
    for kind in KINDS:
        register(kind, partial(_make, kind))


def _make(kind: str, context: GrammarContext) -> GrammarCompiler:
    from llamafw_plugins.grammars.compiler import Compiler

    return Compiler(kind, context)


@hookimpl
def model_loaded(app: App) -> None:
    """Build the table of the model's tokens, which takes a fifth of a second, before the first grammar needs it."""
    threading.Thread(target=_prepare, args=(app.loaded.tokenizer,), name="grammar table").start()


def _prepare(tokenizer: Tokenizer) -> None:
    from llamafw_plugins.grammars.compiler import table

    with suppress(Exception):  # the first grammar meets it again, and says so to who asked for it
        table(tokenizer)
