"""Compiles the grammars of one model on worker threads, and makes the constraints of responses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cached_property
from threading import Lock

from llamafw.errors import FAULTS, GenerationError, RequestError, suggest
from llamafw.interfaces import Grammar, GrammarCompiler, GrammarContext, GrammarFactory
from llamafw.interfaces.members import check_members
from llamafw.sampling.constraint import Constraint
from llamafw.sampling.lazy_constraint import LazyConstraint
from llamafw.sampling.pieces import Pieces
from llamafw.types import GrammarSource


class Grammars:
    """The grammar compilers of one model, created at first use.

    Parameters
    ----------
    factories : mapping of str to GrammarFactory
        All registered kinds of grammars.
    context : GrammarContext
        Passed to the factories.
    """

    def __init__(self, factories: Mapping[str, GrammarFactory], context: GrammarContext) -> None:
        self._factories, self._context = factories, context
        self._compilers: dict[str, GrammarCompiler] = {}
        self._lock = Lock()

    async def constrain(self, source: GrammarSource) -> Constraint:
        """Return the constraint of a new response; compile its grammar on a worker thread, see `compile_now`."""
        return await asyncio.to_thread(self._constrain_now, source)

    def _constrain_now(self, source: GrammarSource) -> Constraint:
        grammar = self.compile_now(source)
        if source.after or source.at:
            return LazyConstraint(grammar, source, self._pieces)
        return Constraint(grammar, source.field)

    def compile_now(self, source: GrammarSource) -> Grammar:
        """Return the grammar in its initial state.

        May take seconds.

        Raises
        ------
        RequestError
            The source is invalid or cannot be enforced; ``param`` is the path of the fault.
        GenerationError
            The compiler failed.
        """
        try:
            grammar = self._compiler(source.kind).compile(source.text)
            check_members(grammar, Grammar, f"the object that compile() of {source.kind!r} grammars returned")
            return grammar
        except RequestError as error:
            error.param = source.field if error.param is None else f"{source.field}.{error.param}"
            raise
        except FAULTS as error:
            source_of_failure = ("grammar", source.kind)
            message = "the grammar cannot be compiled"
            raise GenerationError(message, param=source.field, source=source_of_failure) from error

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._context.tokenizer, self._context.n_vocab)

    def _compiler(self, kind: str) -> GrammarCompiler:
        if kind not in self._factories:
            raise RequestError(f"this server has no grammars of kind {kind!r}{suggest(kind, self._factories)}")
        with self._lock:  # creating a compiler takes 0.2 s; concurrent requests wait for the same one
            if kind not in self._compilers:
                compiler = self._factories[kind](self._context)
                check_members(compiler, GrammarCompiler, f"the compiler of {kind!r} grammars")
                self._compilers[kind] = compiler
            return self._compilers[kind]
