"""Languages that answers can be held to: GBNF, JSON Schema, Lark and regular expressions, all by llguidance."""
from __future__ import annotations

from functools import partial

from llamafw import GrammarCompiler, GrammarContext, Register, hookimpl

KINDS = ("gbnf", "json_schema", "lark", "regex")


@hookimpl
def register_grammars(register: Register) -> None:
    """Offer a compiler per kind of source."""
    for kind in KINDS:
        register(kind, partial(_make, kind))


def _make(kind: str, context: GrammarContext) -> GrammarCompiler:
    from llamafw_plugins.grammars.compiler import Compiler

    return Compiler(kind, context)
