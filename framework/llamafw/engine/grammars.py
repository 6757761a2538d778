"""Compiles the grammars of one model on worker threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from threading import Lock

from llamafw.errors import FAULTS, GenerationError, RequestError, suggest
from llamafw.interfaces import Grammar, GrammarCompiler, GrammarContext, GrammarFactory
from llamafw.types import GrammarSource

log = logging.getLogger(__name__)


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

    async def compile(self, source: GrammarSource) -> Grammar:
        """Compile a grammar on a worker thread; see `compile_now`."""
        return await asyncio.to_thread(self.compile_now, source)

    def compile_now(self, source: GrammarSource) -> Grammar:
        """Return the grammar in its initial state. May take seconds.

        Raises
        ------
        RequestError
            The source is invalid or cannot be enforced; ``param`` names the place.
        GenerationError
            The compiler failed.
        """
        try:
            return self._compiler(source.kind).compile(source.text)
        except RequestError as error:
            error.param = source.field if error.param is None else f"{source.field}.{error.param}"
            raise
        except FAULTS as error:
            log.exception("a grammar of kind %r cannot be compiled", source.kind)
            source_of_failure = ("grammar", source.kind)
            message = "the grammar cannot be compiled"
            raise GenerationError(message, param=source.field, source=source_of_failure) from error

    def _compiler(self, kind: str) -> GrammarCompiler:
        if kind not in self._factories:
            raise RequestError(f"this server has no grammars of kind {kind!r}{suggest(kind, self._factories)}")
        with self._lock:  # creating a compiler takes 0.2 s; concurrent requests wait for the same one
            if kind not in self._compilers:
                self._compilers[kind] = self._factories[kind](self._context)
            return self._compilers[kind]
