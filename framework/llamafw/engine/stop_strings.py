"""Find stop strings in text that arrives in pieces. It knows nothing of tokens.

The generation ends as soon as one of the strings is complete, wherever the cuts between pieces fall; of several
complete at the same character the longest counts. One Aho-Corasick automaton serves all strings, so a character
costs the same however many and however long they are (Aho, Corasick: Efficient string matching, CACM 18(6), 1975).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache


class StopStrings:
    """The stop strings of one request, and the text withheld because it may be the start of one."""

    def __init__(self, words: Iterable[str]) -> None:
        self._automaton = _automaton(tuple(words))
        self._node = 0
        self._held = ""
        self.active = self._automaton.active

    @property
    def held(self) -> int:
        """How many characters are withheld."""
        return len(self._held)

    def feed(self, text: str) -> tuple[str, str | None]:
        """Take in ``text``; return the text that is now certain, and the stop string if one is complete.

        The certain text ends before the stop string; what follows it is dropped.
        """
        if not self.active:
            return text, None
        next_, fail, words = self._automaton.next, self._automaton.fail, self._automaton.word
        if words[0] is not None:  # the empty string, complete before anything is said
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
        """Return the withheld text: the generation has ended, and it is no stop string."""
        held, self._held, self._node = self._held, "", 0
        return held


class Automaton:
    """The strings themselves. It does not change, so requests share it."""

    def __init__(self, words: Iterable[str]) -> None:
        self.next: list[dict[str, int]] = [{}]  # node → character → node
        self.depth = [0]  # of each node: how many characters of a stop string are matched there
        self.word: list[str | None] = [None]  # the longest stop string that ends at the node
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
        """Return, for each node, the node of its longest proper suffix, and let words end there too."""
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


@lru_cache(maxsize=16)  # clients send the same strings with every request, and one request may have a thousand answers
def _automaton(words: tuple[str, ...]) -> Automaton:
    return Automaton(words)
