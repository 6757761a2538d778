"""Find out which generated tokens a text consists of, when an answer is split into reasoning, text and calls."""

from __future__ import annotations

from collections.abc import Sequence

from llamafw import GeneratedToken


class TokenRanges:
    """The tokens of an answer that belong to no text yet, in order.

    Text may be held back, so tokens often arrive before the text that they are part of.
    """

    def __init__(self) -> None:
        self._tokens: list[GeneratedToken] = []

    def add(self, tokens: Sequence[GeneratedToken]) -> None:
        """Append tokens."""
        self._tokens += tokens

    def take(self, text: str) -> list[GeneratedToken]:
        """Remove the tokens before a text and those of the text; return the latter.

        A token that is only partly in the text belongs to it. If the text is not found, because it was changed, it
        consists of all tokens.
        """
        wanted, pieces = text.encode(), [token.piece for token in self._tokens]
        start = b"".join(pieces).find(wanted)
        if start < 0:
            tokens, self._tokens = self._tokens, []
            return tokens

        n_before = n_with = position = 0
        for piece in pieces:
            position += len(piece)
            n_before += position <= start
            if n_with and position - len(piece) >= start + len(wanted):
                break
            n_with += 1
        taken = self._tokens[n_before:n_with]
        self._tokens = self._tokens[n_with:]
        return taken

    def drop(self) -> None:
        """Forget all tokens: they belong to a call."""
        self._tokens.clear()
