"""Finds stop strings in text that arrives in pieces.

A stop string is found as soon as it is complete, even if it is spread over several pieces. If several end at the same
character, the longest one counts. An Aho-Corasick automaton searches for all strings at once, and its cost per
character does not depend on their number or length (Aho and Corasick, Efficient string matching, CACM 18(6), 1975).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache


class StopStrings:
    """The stop strings of one request, and the text that is held back because it may be the start of one."""

    def __init__(self, words: Iterable[str]) -> None:
        self._automaton = _automaton(tuple(words))
        self._node = 0
        self._held = ""
        self.active = self._automaton.active

    @property
    def held(self) -> int:
        """Number of characters that are held back."""
        return len(self._held)

    def feed(self, text: str) -> tuple[str, str | None]:
        """Add ``text``; return the text that is now certain, and the stop string if one is complete.

        The certain text ends before the stop string. Text after the stop string is dropped.
        """
        if not self.active:
            return text, None
        next_, fail, words = self._automaton.next, self._automaton.fail, self._automaton.word
        if words[0] is not None:  # the empty string is found at once
            return "", ""

        node = self._node
        for i, char in enumerate(text):
            while node and char not in next_[node]:
                node = fail[node]
            node = next_[node].get(char, 0)
            word = words[node]
            if word is not None:
                seen = self._held + text[: i + 1]
                self._node, self._held = 0, ""
                return seen[: len(seen) - len(word)], word

        self._node = node
        seen = self._held + text
        certain = len(seen) - self._automaton.depth[node]
        self._held = seen[certain:]
        return seen[:certain], None

    def flush(self) -> str:
        """Return the text that was held back, at the end of the response."""
        held, self._held, self._node = self._held, "", 0
        return held


class Automaton:
    """The Aho-Corasick automaton of a set of strings.

    Immutable, so requests share it.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.next: list[dict[str, int]] = [{}]  # node → character → node
        self.depth = [0]  # node → number of characters of a stop string that it matches
        self.word: list[str | None] = [None]  # node → longest stop string that ends there
        for word in words:
            self._add(word)
        self.fail = self._link()
        self.active = len(self.next) > 1 or self.word[0] is not None

    def _add(self, word: str) -> None:
        node = 0
        for depth, char in enumerate(word, 1):
            if char not in self.next[node]:
                self.next[node][char] = len(self.next)
                self.next.append({})
                self.depth.append(depth)
                self.word.append(None)
            node = self.next[node][char]
        self.word[node] = word

    def _link(self) -> list[int]:
        """Return for each node the node of its longest proper suffix; mark the words that end there."""
        fail = [0] * len(self.next)
        level = list(self.next[0].values())
        while level:
            below = []
            for node in level:
                for char, child in self.next[node].items():
                    back = fail[node]
                    while back and char not in self.next[back]:
                        back = fail[back]
                    fail[child] = self.next[back].get(char, 0)
                    if self.word[child] is None and self.word[fail[child]]:
                        self.word[child] = self.word[fail[child]]
                    below.append(child)
            level = below
        return fail


@lru_cache(maxsize=16)  # clients often send the same strings, and a request can have many responses
def _automaton(words: tuple[str, ...]) -> Automaton:
    return Automaton(words)
