"""Protocols for grammars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llamafw.interfaces.tokenizer import Tokenizer
from llamafw.types import Floats


class Grammar(Protocol):
    """Tracks one response within a grammar.

    Created per response; called on the engine thread, once per token.
    """

    @property
    def ended(self) -> bool:
        """Whether the response is complete and nothing may follow."""

    def accept(self, token: int) -> bool:
        """Advance by ``token`` and return True if the grammar allows it; otherwise return False and change nothing.

        End-of-generation tokens are allowed wherever the response may end.
        """

    def mask(self, logits: Floats) -> None:
        """Set the ``logits``, ``(n_vocab,)`` float32, of all tokens that are not allowed next to −inf."""

    def copy(self) -> Grammar:
        """Return an independent grammar in the same state.

        Called only for grammars that start in the middle of a response, a few times per response.
        """


@dataclass(frozen=True, slots=True)
class GrammarContext:
    """The arguments of a `GrammarFactory`."""

    tokenizer: Tokenizer  # the model's tokenizer
    n_vocab: int  # number of logits that a mask covers


class GrammarCompiler(Protocol):
    """Compiles grammars of one kind.

    Created once per model, at first use; called on worker threads.
    """

    def compile(self, source: str) -> Grammar:
        """Return the grammar described by ``source``, in its initial state.

        Raises
        ------
        RequestError
            The source is invalid, too complex, or asks for something that cannot be enforced. ``param`` is the path of
            the fault within the source, if known.
        """


GrammarFactory = Callable[[GrammarContext], GrammarCompiler]
"""The object that `register_grammars` registers for a kind of grammar."""
