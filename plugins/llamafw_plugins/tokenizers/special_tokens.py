"""Finds special tokens in a text.

Independent of how the plain text between them is tokenized.

llama.cpp searches for one special token after another, those with the longest text (in bytes) first, each in the plain
text that the previous ones left over. That takes quadratic time for a long text with many special tokens. Here one pass
finds all occurrences, and then longer tokens take precedence over shorter ones, with the same result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set

_SPACES = frozenset(" \t\n\v\f\r")
_MAX_NESTING = 32  # of regex groups; Python's compiler is recursive


class SpecialTokens:
    """Finds the special tokens of one model in texts.

    Parameters
    ----------
    texts : mapping
        Token id → text, which is not empty.
    strip_left, strip_right : set of int
        Tokens that remove the white space before or after them.
    """

    def __init__(
        self, texts: Mapping[int, str], strip_left: Set[int] = frozenset(), strip_right: Set[int] = frozenset()
    ) -> None:
        order = sorted(texts, key=lambda token: (-len(texts[token].encode("utf-8", "surrogateescape")), token))
        by_text = {texts[token]: (rank, token) for rank, token in enumerate(order)}
        self.strip_left, self.strip_right = strip_left, strip_right
        self._pattern = re.compile(_pattern(list(by_text))) if by_text else None
        self._beginnings = {  # text → (rank, token, length) of the special tokens that it begins with
            text: [(*by_text[text[:n]], n) for n in range(1, len(text) + 1) if text[:n] in by_text] for text in by_text
        }

    def split(self, text: str) -> list[str | int]:
        """Return ``text`` split into special tokens and the plain text between them, without empty parts."""
        if self._pattern is None or not (spans := self._find_spans(text)):
            return [text] if text else []
        parts: list[str | int] = []
        done = 0
        for start, end, token in spans:
            if start > done:
                parts.append(text[done:start])
            parts.append(token)
            done = end
        if done < len(text):
            parts.append(text[done:])
        return parts

    def _find_spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return (start, end, token) of each special token in order, including the white space that it removes."""
        assert self._pattern is not None  # checked by split
        occurrences: list[tuple[int, int, int, int]] = []  # (rank, start, end, token)
        position = 0
        while match := self._pattern.search(text, position):
            start = match.start()
            occurrences += [(rank, start, start + n, token) for rank, token, n in self._beginnings[match.group()]]
            position = start + 1

        taken = bytearray(len(text))  # 1 for each character that belongs to a span
        spans: list[tuple[int, int, int]] = []
        for _, start, end, token in sorted(occurrences):
            # Earlier spans are at least as long, so one that overlaps this one covers one of its ends.
            if taken[start] or taken[end - 1]:
                continue
            if token in self.strip_left:
                while start and not taken[start - 1] and text[start - 1] in _SPACES:
                    start -= 1
            if token in self.strip_right:
                while end < len(text) and not taken[end] and text[end] in _SPACES:
                    end += 1
            taken[start:end] = b"\1" * (end - start)
            spans.append((start, end, token))
        return sorted(spans)


def _pattern(texts: Iterable[str], nesting: int = 0) -> str:
    """Return a regular expression for the longest matching text, in which texts share their common prefixes.

    A plain alternation of thousands of texts would try each of them at every ``<``.
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
        shared = _common_prefix(rests)
        rest = _pattern([text[len(shared) :] for text in rests], nesting + 1)
        alternatives.append(re.escape(first + shared) + (f"(?:{rest})" if rest else ""))
    if "" in longest_first:
        alternatives.append("")  # last, so that a longer text wins
    return "|".join(alternatives)


def _common_prefix(texts: list[str]) -> str:
    low, high = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:n]
