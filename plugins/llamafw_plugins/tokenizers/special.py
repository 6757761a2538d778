"""Finds the texts of special tokens in a text. It knows nothing of what becomes of the text between them.

llama.cpp looks for one special token after another, the longest text (in bytes) first, in what the longer ones have
left over. Done like that, a long text full of special tokens takes quadratic time; here one pass finds every
occurrence, and the longest take their places first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set

_SPACES = frozenset(" \t\n\v\f\r")
_MAX_NESTING = 32  # of regex groups; Python's compiler is recursive


class SpecialTokens:
    """The special tokens of one model that are to be found in texts.

    Parameters
    ----------
    texts : mapping
        Token id → text; no text is empty.
    strip_left, strip_right : set of int
        Tokens that swallow the white space before or after them.
    """

    def __init__(
        self, texts: Mapping[int, str], strip_left: Set[int] = frozenset(), strip_right: Set[int] = frozenset()
    ) -> None:
        order = sorted(texts, key=lambda token: (-len(texts[token].encode("utf-8", "surrogateescape")), token))
        by_text = {texts[token]: (rank, token) for rank, token in enumerate(order)}
        self._strip_left, self._strip_right = strip_left, strip_right
        self._pattern = re.compile(_pattern(list(by_text))) if by_text else None
        self._starting: dict[str, list[tuple[int, int, int]]] = {  # text → (rank, length, token) of its beginnings
            text: [(*by_text[text[:n]], n) for n in range(1, len(text) + 1) if text[:n] in by_text] for text in by_text
        }

    def split(self, text: str) -> list[str | int]:
        """Return ``text`` cut into special tokens and, between them, stretches of plain text, none of them empty."""
        if self._pattern is None or not (places := self._places(text)):
            return [text] if text else []
        parts: list[str | int] = []
        done = 0
        for start, end, token in places:
            if start > done:
                parts.append(text[done:start])
            parts.append(token)
            done = end
        if done < len(text):
            parts.append(text[done:])
        return parts

    def _places(self, text: str) -> list[tuple[int, int, int]]:
        """Return (start, end, token) in order, including the white space that the token swallows."""
        assert self._pattern is not None  # split asks only then
        found: list[tuple[int, int, int, int]] = []
        position = 0
        while match := self._pattern.search(text, position):
            start = match.start()
            found += [(rank, start, start + n, token) for rank, token, n in self._starting[match.group()]]
            position = start + 1
        taken = bytearray(len(text))
        places: list[tuple[int, int, int]] = []
        for _, start, end, token in sorted(found):
            # What is taken is no shorter than this, so it cannot lie strictly inside: the two ends tell.
            if taken[start] or taken[end - 1]:
                continue
            if token in self._strip_left:
                while start and not taken[start - 1] and text[start - 1] in _SPACES:
                    start -= 1
            if token in self._strip_right:
                while end < len(text) and not taken[end] and text[end] in _SPACES:
                    end += 1
            taken[start:end] = b"\1" * (end - start)
            places.append((start, end, token))
        return sorted(places)


def _pattern(texts: Iterable[str], nesting: int = 0) -> str:
    """Return a regular expression that matches the longest of ``texts``, sharing their common beginnings.

    A plain alternation of thousands of texts would try each of them at each ``<``.
    """
    longest_first = sorted(set(texts), key=len, reverse=True)
    if len(longest_first) == 1 or nesting > _MAX_NESTING:
        return "|".join(map(re.escape, longest_first))
    branches: dict[str, list[str]] = {}
    for text in longest_first:
        if text:
            branches.setdefault(text[0], []).append(text[1:])
    alternatives = []
    for first, rests in branches.items():
        shared = _shared_beginning(rests)
        rest = _pattern([text[len(shared) :] for text in rests], nesting + 1)
        alternatives.append(re.escape(first + shared) + (f"(?:{rest})" if rest else ""))
    if "" in longest_first:
        alternatives.append("")  # last, so that a longer text wins
    return "|".join(alternatives)


def _shared_beginning(texts: list[str]) -> str:
    low, high = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:n]
