"""The grammars of one model: compilers made when first asked for, run on worker threads. It knows no kind of them."""

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
    """Compiles what answers are held to.

    Parameters
    ----------
    factories : mapping
        Of every plugin, by kind.
    """

    def __init__(self, factories: Mapping[str, GrammarFactory], context: GrammarContext) -> None:
        self._factories, self._context = factories, context
        self._compilers: dict[str, GrammarCompiler] = {}
        self._lock = Lock()

    async def compile(self, source: GrammarSource) -> Grammar:
        """Return the grammar, at its start; see `compile_now`."""
        return await asyncio.to_thread(self.compile_now, source)

    def compile_now(self, source: GrammarSource) -> Grammar:
        """Return the grammar, at its start. May take long.

        Raises
        ------
        RequestError
            The source is wrong, or cannot be enforced; ``param`` names the place.
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
            failed = ("grammar", source.kind)
            raise GenerationError("the grammar cannot be compiled", param=source.field, source=failed) from error

    def _compiler(self, kind: str) -> GrammarCompiler:
        if kind not in self._factories:
            raise RequestError(f"this server has no grammars of kind {kind!r}{suggest(kind, self._factories)}")
        with self._lock:  # the first takes a fifth of a second; others of its kind wait for it
            if kind not in self._compilers:
                self._compilers[kind] = self._factories[kind](self._context)
            return self._compilers[kind]
