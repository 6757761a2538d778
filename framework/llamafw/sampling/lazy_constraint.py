"""Restricts the end of a response to a grammar, from certain strings on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamafw.interfaces import Grammar
from llamafw.sampling.constraint import Constraint
from llamafw.sampling.pieces import Pieces
from llamafw.types import Floats, GrammarSource


@dataclass(frozen=True, slots=True)
class _Part:
    """A token of the text that is searched, or the end of one."""

    token: int | None  # None: only the last bytes of a token
    piece: bytes


@dataclass(frozen=True, slots=True)
class _Match:
    """The first of some strings in a text."""

    start: int
    end: int


class LazyConstraint(Constraint):
    """A grammar that starts in the middle of a response.

    `GrammarSource` describes where. Until then, each token only costs a search in its bytes.

    Parameters
    ----------
    grammar : Grammar
        In its initial state.
    source : GrammarSource
        Where the grammar came from and where it starts.
    pieces : Pieces
        The tokens of the model.
    """

    def __init__(self, grammar: Grammar, source: GrammarSource, pieces: Pieces) -> None:
        super().__init__(grammar, source.field)
        self._pieces = pieces
        self._after = [text.encode() for text in source.after]  # [] once one of them was found
        self._at = [text.encode() for text in source.at]
        self._parts: tuple[_Part, ...] = ()  # the last tokens, as far as one of the strings may begin in them
        self._started = False

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        return self._started and super().ended

    def accept(self, token: int) -> bool:
        """Advance by ``token`` and return True if it is allowed; otherwise return False.

        Raises the same errors as `Constraint.accept`.
        """
        if self._started:
            return super().accept(token)
        if token in self._pieces.eog:
            return bool(self._at)

        parts = (*self._parts, _Part(token, self._pieces.all[token]))
        rest = parts
        if self._after:
            match = _find_end(self._after, parts)
            if match is None:
                self._parts = _cut_start(parts, _longest(self._after) - 1)
                return True
            rest = _drop(parts, match.end)

        match = _find_end(self._at, rest) if self._at else _Match(0, 0)
        if match is not None:
            started = self._start(_drop(rest, match.start))
            if started is None:
                return False
            self._grammar, self._started, self._parts = started, True, ()
            return True

        self._after, self._parts = [], _cut_start(rest, _longest(self._at) - 1)
        return True

    def mask(self, logits: Floats) -> None:
        """Set the ``logits``, ``(n_vocab,)`` float32, of all tokens that are not allowed next to −inf.

        Raises the same errors as `Constraint.mask`.
        """
        if self._started:
            return super().mask(logits)
        if not self._at:
            logits[list(self._pieces.eog)] = -np.inf

        state = (self._grammar, self._after, self._parts)
        for token in self._pieces.containing({text[-1:] for text in (*self._after, *self._at)}):
            if token not in self._pieces.eog and not self.accept(token):
                logits[token] = -np.inf
            (self._grammar, self._after, self._parts), self._started = state, False

    def _start(self, parts: tuple[_Part, ...]) -> Grammar | None:
        """Return the grammar after the text in ``parts``; None if it forbids this text."""
        with self._errors():
            grammar = self._grammar.copy()
            for part in parts:
                tokens = self._pieces.spell(part.piece) if part.token is None else [part.token]
                if tokens is None or not all(grammar.accept(token) for token in tokens):
                    return None
            return grammar


def _find_end(strings: list[bytes], parts: tuple[_Part, ...]) -> _Match | None:
    """Return the string in ``parts`` that ends first; of those with the same end, the longest.

    Only the last part is new, so no string ends before it.
    """
    text = b"".join(part.piece for part in parts)
    starts = ((text.find(string), len(string)) for string in strings)
    matches = (_Match(start, start + length) for start, length in starts if start >= 0)
    return min(matches, key=lambda match: (match.end, match.start), default=None)


def _drop(parts: tuple[_Part, ...], n: int) -> tuple[_Part, ...]:
    """Return ``parts`` without the first ``n`` bytes."""
    for i, part in enumerate(parts):
        if n < len(part.piece):
            first = part if not n else _Part(None, part.piece[n:])
            return (first, *parts[i + 1 :])
        n -= len(part.piece)
    return ()


def _cut_start(parts: tuple[_Part, ...], n: int) -> tuple[_Part, ...]:
    """Return the last ``parts`` that have at least ``n`` bytes, if there are so many."""
    n_bytes = 0
    for i in range(len(parts) - 1, -1, -1):
        if n_bytes >= n:
            return parts[i + 1 :]
        n_bytes += len(parts[i].piece)
    return parts


def _longest(strings: list[bytes]) -> int:
    return max(map(len, strings))
