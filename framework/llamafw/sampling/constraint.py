"""Restricts a response to a grammar, and turns failures of the grammar into errors for the client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from llamafw.errors import FAULTS, GenerationError, RequestError
from llamafw.interfaces import Grammar
from llamafw.types import Floats


class TokenConstraint(Protocol):
    """Restricts the tokens of one response."""

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""

    @property
    def free(self) -> bool:
        """Whether any token may be next."""

    def accept(self, token: int) -> bool:
        """Advance by ``token`` and return True if it is allowed; otherwise return False and change nothing."""

    def mask(self, logits: Floats) -> None:
        """Set the ``logits``, ``(n_vocab,)`` float32, of all tokens that are not allowed next to −inf."""


class Constraint:
    """The grammar of one response.

    Parameters
    ----------
    grammar : Grammar
        In its initial state.
    field : str
        The request field that the grammar came from, for error messages.
    """

    def __init__(self, grammar: Grammar, field: str) -> None:
        self._grammar, self._field = grammar, field

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        return self._grammar.ended

    @property
    def free(self) -> bool:
        """Whether any token may be next; only the grammar knows."""
        return False

    def accept(self, token: int) -> bool:
        """Advance by ``token`` and return True if the grammar allows it; otherwise return False.

        Raises
        ------
        RequestError
            The grammar refused; ``param`` names the request field.
        GenerationError
            The grammar failed.
        """
        with self._errors():
            return self._grammar.accept(token)

    def mask(self, logits: Floats) -> None:
        """Set the ``logits``, ``(n_vocab,)`` float32, of all tokens that are not allowed next to −inf.

        Raises the same errors as `accept`.
        """
        with self._errors():
            self._grammar.mask(logits)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RequestError as error:
            error.param = error.param or self._field
            raise
        except FAULTS as error:
            raise GenerationError("the grammar failed") from error
