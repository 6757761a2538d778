"""Turns tokens into text and pairs each piece of text with its tokens.

It holds back incomplete characters, and text that may be the start of a stop string.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence

from llamafw.engine.stop_strings import StopStrings
from llamafw.types import GeneratedToken

Piece = tuple[str, tuple[GeneratedToken, ...]]
"""Some text and the tokens it consists of."""


class Detokenizer:
    """The text of one response while it is generated.

    A token is released with the end of its text, and a token without text with the text before it. A token of a stop
    string is released only if a part of its text is before the stop string.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = StopStrings(stop)
        self._n_decoded = 0  # characters decoded so far
        self._n_released = 0  # of these, released
        self._tokens: deque[tuple[int, int, GeneratedToken]] = deque()  # start and end of its text; not released yet

    def feed(self, token: GeneratedToken) -> tuple[Piece, str | None]:
        """Add a token; return the text that is now certain, and the stop string if one is complete."""
        start = self._n_decoded
        text = self._utf8.decode(token.piece)
        self._n_decoded += len(text)
        incomplete = bool(self._utf8.getstate()[0])
        if not (self._stop.active or self._tokens or incomplete):
            self._n_released = self._n_decoded
            return (text, (token,)), None
        end = self._n_decoded + incomplete  # an incomplete character counts as one more character
        self._tokens.append((start, end, token))
        certain, word = self._stop.feed(text)
        return self._release(certain, word), word

    def flush(self) -> tuple[Piece, str | None]:
        """Return everything that was held back, at the end of the response.

        An incomplete character becomes U+FFFD.
        """
        text = self._utf8.decode(b"", final=True)
        self._n_decoded += len(text)
        certain, word = self._stop.feed(text)
        if word is None:
            certain += self._stop.flush()
        return self._release(certain, word), word

    def _release(self, text: str, word: str | None) -> Piece:
        """Return ``text`` and the tokens that can now be released."""
        self._n_released += len(text)
        released: list[GeneratedToken] = []
        while self._tokens and self._tokens[0][1] <= self._n_released:
            released.append(self._tokens.popleft()[2])
        if word is not None and self._tokens and self._tokens[0][0] < self._n_released:
            released.append(self._tokens[0][2])  # a part of its text is before the stop string
        return text, tuple(released)
