"""Protocols for grammars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llamafw.interfaces.tokenizer import Tokenizer
from llamafw.types import Floats


class Grammar(Protocol):
    """Where one answer is within what it may be. Made per answer; called on the engine thread, per token."""

    @property
    def ended(self) -> bool:
        """Whether the answer is whole and nothing may follow."""

    def accept(self, token: int) -> bool:
        """Go on by ``token`` if it may come next; False, and nothing has changed, if not.

        End-of-generation tokens may come where the answer may end.
        """

    def mask(self, logits: Floats) -> None:
        """Set those of the ``logits``, ``(n_vocab,)`` float32, to −inf whose tokens may not come next."""


@dataclass(frozen=True, slots=True)
class GrammarContext:
    """What a grammar compiler is made from."""

    tokenizer: Tokenizer  # the model's
    n_vocab: int  # logits that masks are for


class GrammarCompiler(Protocol):
    """Compiles one kind of source. Made once per model, when first asked for; called on worker threads."""

    def compile(self, source: str) -> Grammar:
        """Return the grammar that the text ``source`` describes, at its start.

        Raises
        ------
        RequestError
            The source is wrong, too complex, or holds what cannot be enforced. ``param`` is a path within it, if any.
        """


GrammarFactory = Callable[[GrammarContext], GrammarCompiler]
"""What is registered as a kind of grammar."""
