"""Turn tokens into text as it becomes certain, and keep each token beside its text.

Withheld are bytes that are not yet a whole character, and text that may become a stop string. It knows nothing of
logits, slots or threads.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence

from llamafw.engine.stop_strings import StopStrings
from llamafw.types import GeneratedToken

Piece = tuple[str, tuple[GeneratedToken, ...]]
"""Text, and the tokens it belongs to."""


class Detokenizer:
    """The text of one answer, in the making.

    A token is handed out with the text that completes its own. Of the tokens of a stop string only one that also
    carries text before it is handed out; tokens without text go with what precedes them.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = StopStrings(stop)
        self._fed = 0  # characters decoded so far
        self._sent = 0  # of these, handed out
        self._tokens: deque[tuple[int, int, GeneratedToken]] = deque()  # where its text starts and ends; not handed out

    def feed(self, token: GeneratedToken) -> tuple[Piece, str | None]:
        """Take in one token; return what is certain now, and the stop string if one is complete."""
        start = self._fed
        text = self._utf8.decode(token.piece)
        self._fed += len(text)
        half = bool(self._utf8.getstate()[0])
        if not (self._stop.active or self._tokens or half):
            self._sent = self._fed
            return (text, (token,)), None
        self._tokens.append((start, self._fed + half, token))  # half a character counts as one that is still to come
        certain, word = self._stop.feed(text)
        return self._hand_out(certain, word), word

    def flush(self) -> tuple[Piece, str | None]:
        """Return all that is withheld: no more tokens come. Half a character becomes U+FFFD."""
        text = self._utf8.decode(b"", final=True)
        self._fed += len(text)
        certain, word = self._stop.feed(text)
        if word is None:
            certain += self._stop.flush()
        return self._hand_out(certain, word), word

    def _hand_out(self, text: str, word: str | None) -> Piece:
        """Return ``text`` and the tokens whose text is now handed out."""
        self._sent += len(text)
        done: list[GeneratedToken] = []
        while self._tokens and self._tokens[0][1] <= self._sent:
            done.append(self._tokens.popleft()[2])
        if word is not None and self._tokens and self._tokens[0][0] < self._sent:
            done.append(self._tokens[0][2])  # it has text on both sides of the cut
        return text, tuple(done)
