"""Reads text that is still arriving: each method waits until it can decide.

Independent of tool calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")
Waiting = Generator[None, None, Result]
"""A function that yields whenever it needs more text, and at last returns its result."""

SPACES = " \t\r\n"
_NAME = re.compile(r"[\w.:/-]*")
_OUTSIDE, _INSIDE = re.compile(r'["{}\[\]]'), re.compile(r'["\\]')  # of strings in JSON
_SCALAR = re.compile(r"[\w.+-]*")


class NotACall(Exception):
    """The text is not a call."""


class Unfinished(NotACall):
    """The response has ended within a call."""


class Cursor:
    """A position in text that is still arriving.

    Attributes
    ----------
    text : str
        The text so far.
    at : int
        The position.
    ended : bool
        No more text will arrive.
    """

    def __init__(self) -> None:
        self.text, self.at, self.ended = "", 0, False

    def wait(self) -> Waiting[None]:
        """Wait for more text; raise Unfinished if none will arrive."""
        if self.ended:
            raise Unfinished
        yield

    def skip(self, characters: str = SPACES) -> Waiting[None]:
        """Go past any of the ``characters``."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in characters:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return
            yield

    def peek(self) -> Waiting[str]:
        """Return the next character."""
        while self.at >= len(self.text):
            yield from self.wait()
        return self.text[self.at]

    def find(self, *options: str) -> Waiting[str]:
        """Return the first of the ``options`` with which the text goes on, and go past it; "" if it is none of them."""
        while True:
            for option in options:
                if self.text.startswith(option, self.at):
                    self.at += len(option)
                    return option
                if not self.ended and option.startswith(self.text[self.at : self.at + len(option)]):
                    break  # it may still arrive
            else:
                return ""
            yield

    def expect(self, *options: str) -> Waiting[str]:
        """Go past one of the ``options`` and return it; raise NotACall if the text goes on otherwise."""
        found = yield from self.find(*options)
        if not found:
            rest = self.text[self.at :]
            raise Unfinished if self.ended and any(option.startswith(rest) for option in options) else NotACall
        return found

    def close(self, *marks: str) -> Waiting[None]:
        """Go past white space and one of the ``marks``; stay here if the text goes on otherwise.

        If the response has ended, the end of the mark may be missing.
        """
        start = self.at
        yield from self.skip()
        found = yield from self.find(*marks)
        rest = self.text[self.at :]
        if not found:
            self.at = len(self.text) if self.ended and any(mark.startswith(rest) for mark in marks) else start

    def name(self) -> Waiting[str]:
        """Return a name, which is not empty, and go past it."""
        text = yield from self._match(_NAME)
        if not text or (self.ended and self.at == len(self.text)):
            raise Unfinished if self.at == len(self.text) else NotACall
        return text

    def until(self, *marks: str, emit: Callable[[str], None] | None = None) -> Waiting[tuple[str, str]]:
        """Return the text before the first of the ``marks``, and the mark, and go past both.

        ``emit`` receives the same text in pieces, as soon as they are certain.
        """
        start = sent = self.at
        while True:
            found = [(at, mark) for mark in marks if (at := self.text.find(mark, sent)) >= 0]
            end, mark = min(found, default=(len(self.text), ""))
            certain = end if mark else end - beginning_of(self.text[sent:], marks)
            if emit is not None and certain > sent:
                emit(self.text[sent:certain])
            sent = max(sent, certain)
            if mark:
                self.at = end + len(mark)
                return self.text[start:end], mark
            yield from self.wait()

    def json(self, emit: Callable[[str], None] | None = None) -> Waiting[str]:
        """Return a JSON value as it is written, and go past it.

        Only its end is looked for, so it may be invalid. ``emit`` receives the same text in pieces as it arrives.
        """
        start = self.at
        if (yield from self.peek()) not in '"{[':
            text = yield from self._match(_SCALAR)
            if not text:
                raise NotACall
            if emit is not None:
                emit(text)
            return text

        depth, inside, sent = 0, False, start
        while True:
            match = (_INSIDE if inside else _OUTSIDE).search(self.text, self.at)
            escaped = match is not None and match[0] == "\\"
            if match is None or (escaped and match.end() == len(self.text)):
                self.at = len(self.text) if match is None else match.start()
                if emit is not None and self.at > sent:
                    emit(self.text[sent : self.at])
                sent = self.at
                yield from self.wait()
                continue

            self.at = match.end() + escaped
            if match[0] == '"':
                inside = not inside
            elif not inside:
                depth += 1 if match[0] in "{[" else -1
            if not (depth or inside):
                if emit is not None:
                    emit(self.text[sent : self.at])
                return self.text[start : self.at]

    def _match(self, pattern: re.Pattern[str]) -> Waiting[str]:
        while (match := pattern.match(self.text, self.at)) and match.end() == len(self.text) and not self.ended:
            yield
        self.at = match.end() if match else self.at
        return match[0] if match else ""


def beginning_of(text: str, marks: tuple[str, ...]) -> int:
    """Return how many characters at the end of ``text`` may be the beginning of one of the ``marks``."""
    longest = min(len(text), max(map(len, marks)) - 1)
    ends = range(longest, 0, -1)
    return next((n for n in ends if any(mark.startswith(text[-n:]) for mark in marks)), 0)
