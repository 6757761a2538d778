"""The base class of tool parsers: separates text from calls, whose format a subclass reads.

Independent of the format of any model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, ClassVar

from llamafw import AnswerDelta, CallDelta, ToolContext
from llamafw_plugins.strict_json import parse_strict
from llamafw_plugins.tool_parsers.cursor import Cursor, NotACall, Unfinished, Waiting, beginning_of


def make_openai_id() -> str:
    """Return an id in the format of OpenAI."""
    return f"call_{token_hex(12)}"


class CallParser(ABC):
    """Reads one response.

    Implements `llamafw.ToolParser`. A subclass reads the calls after one of its ``openings``. If they are not calls,
    the opening is text, and reading goes on after it.

    Attributes
    ----------
    openings : tuple of str
        The strings that begin calls anywhere in a response.
    bare : str
        Characters with which calls at the beginning of a response may begin.
    """

    openings: ClassVar[tuple[str, ...]] = ()
    bare: ClassVar[str] = ""

    def __init__(self, context: ToolContext, triggers: Sequence[str] = ()) -> None:
        self.context, self.cursor = context, Cursor()
        self._triggers = tuple(triggers) if context.enforced else ()
        self._text: list[str] = []  # to be returned next
        self._reasoning: list[str] = []
        self._calls: list[CallDelta] = []
        self._pending: list[CallDelta] = []  # pieces of calls that are not certain yet
        self._n_calls = 0  # whole calls that are certain
        self._index, self._id = 0, ""  # of the call that is being read
        self._ids: set[str] = set()
        self._open = False  # a call has begun and not ended
        self._start = self._end = 0  # where the current calls began, and where the last whole one ended
        self._space = ""  # at the beginning of the response, before an opening
        self._streams = False  # pieces are returned as they arrive
        self._has_text = self._after_call = self._cut = False
        self._steps = self._read()

    def feed(self, text: str) -> AnswerDelta:
        """Add ``text``; return the text and the pieces of calls that are now certain."""
        self.cursor.text += text
        next(self._steps, None)
        return self._take()

    def finish(self, *, cut: bool = False) -> AnswerDelta:
        """Return what was held back, at the end of the response."""
        self.cursor.ended, self._cut = True, cut
        for _ in self._steps:
            pass
        if cut and self.context.required:  # what is left is the beginning of a call
            self._text.clear()
        return self._take()

    # --- for subclasses

    @abstractmethod
    def read_calls(self) -> Waiting[None]:
        """Read calls, from an opening on; raise NotACall if the text there is not a call."""

    def make_id(self) -> str:
        """Return the id of a new call."""
        return make_openai_id()

    def begin_call(self, name: str, id: str | None = None) -> None:
        """Begin a call of the tool ``name``."""
        self._id = id if id and id not in self._ids else self.make_id()
        self._ids.add(self._id)
        self._streams = self._streams or (self._index == self._n_calls and self._begins_with_trigger())
        self._open = True
        self._put(CallDelta(self._index, self._id, name, ""))

    def add_arguments(self, text: str) -> None:
        """Add characters to the arguments of the call."""
        if text:
            self._put(CallDelta(self._index, self._id, None, text))

    def end_call(self) -> None:
        """End the call."""
        self._open, self._end = False, self.cursor.at
        self._index += 1
        if self._streams:
            self._n_calls = self._index

    def read_arguments(self, name: str, id: str | None = None) -> Waiting[None]:
        """Read a JSON object, the arguments of a call of the tool ``name``."""
        if (yield from self.cursor.peek()) != "{":
            raise NotACall
        self.begin_call(name, id)
        text = yield from self.cursor.json(self.add_arguments)
        if not self._streams:
            check_object(text)
        self.end_call()

    def read_body(self, emit: Callable[[str], None], ends: Sequence[str], *others: str) -> Waiting[None]:
        """Pass the content of a message on as it arrives.

        Goes past one of the ``ends``, but not past any of the ``others``, which begin messages.
        """
        cursor, marks = self.cursor, (*ends, *others)
        while True:
            found = [at for mark in marks if (at := cursor.text.find(mark, cursor.at)) >= 0]
            end = min(found, default=len(cursor.text))
            if not (found or cursor.ended):
                end -= beginning_of(cursor.text[cursor.at :], marks)
            emit(cursor.text[cursor.at : end])
            cursor.at = end
            if found:
                yield from cursor.find(*ends)
                return
            if cursor.ended:
                return
            yield

    def add_text(self, text: str) -> None:
        """Add text to the response, without white space that follows a call."""
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        self._has_text = self._has_text or bool(text.strip())
        self._text.append(text)

    def begin_text(self) -> None:
        """Note that text follows, so calls without an opening do not."""
        self._has_text = True

    def add_reasoning(self, text: str) -> None:
        """Add reasoning to the response."""
        self._reasoning.append(text)

    @property
    def is_bare(self) -> bool:
        """Whether the current calls began without an opening."""
        return not any(self.cursor.text.startswith(opening, self._start) for opening in self.openings)

    # --- the response

    def _read(self) -> Waiting[None]:
        """Read the response."""
        while (yield from self._find_calls()):
            self._start = self._end = self.cursor.at
            self._streams, n_before = self._begins_with_trigger(), self._index
            try:
                yield from self.read_calls()
            except NotACall as error:
                self._give_up(ended=isinstance(error, Unfinished))
            else:
                self._commit()
                self._after_call = self._index > n_before
            self._space = ""
            self._forget()

    def _find_calls(self) -> Waiting[bool]:
        """Go to the next place where calls may begin; return False at the end of the response."""
        cursor = self.cursor
        while True:
            if not self._has_text and not (yield from self._skip_leading_space()):
                return False
            if self._may_be_bare():
                return True
            found = [at for opening in self.openings if (at := cursor.text.find(opening, cursor.at)) >= 0]
            end = min(found, default=len(cursor.text))
            is_whole = cursor.ended and not (self._cut and (self._n_calls or self.context.may_be_json))
            kept = 0 if found or is_whole else self._n_uncertain()
            before = cursor.text[cursor.at : end - kept]
            if found and not self._has_text and not before.strip():
                self._space = before
            else:
                self.add_text(before)
            cursor.at = end - kept
            if found:
                return True
            if cursor.ended:
                return False
            self._forget()
            yield

    def _skip_leading_space(self) -> Waiting[bool]:
        """Wait for the first character of the response that is not white space; return False if there is none."""
        cursor = self.cursor
        while not cursor.text[cursor.at :].strip() or self._may_become_opening():
            if cursor.ended:
                if not cursor.text[cursor.at :].strip():
                    self.add_text(cursor.text[cursor.at :])
                    return False
                return True
            yield
        return True

    def _may_become_opening(self) -> bool:
        """Return whether the text so far is a bare beginning that may still become an opening."""
        text = self.cursor.text[self.cursor.at :].lstrip()
        return text[:1] in self.bare and any(len(text) < len(mark) and mark.startswith(text) for mark in self.openings)

    def _may_be_bare(self) -> bool:
        """Return whether a call without an opening may begin here."""
        text = self.cursor.text[self.cursor.at :].lstrip()
        if self._has_text or self._n_calls or not text or text[0] not in self.bare or self.context.may_be_json:
            return False
        return not text.startswith(self.openings)

    def _n_uncertain(self) -> int:
        """Return how many characters at the end of the text may begin calls."""
        return beginning_of(self.cursor.text[self.cursor.at :], self.openings) if self.openings else 0

    def _begins_with_trigger(self) -> bool:
        """Return whether a grammar holds for the text from here on."""
        text = self.cursor.text[self._start :].lstrip()
        return bool(self._triggers) and text.startswith(self._triggers)

    def _give_up(self, *, ended: bool) -> None:
        """Return what could not be read as calls as text, but for calls that are whole."""
        cursor, space = self.cursor, self._space
        if self._streams and (self._open or self._end > self._start):  # the client has a part of the calls already
            self._n_calls = self._index = self._index + self._open
            cursor.at = len(cursor.text) if ended or self._open else self._end
        elif ended:
            is_call = self._end > self._start
            space = "" if is_call else space
            self._commit()
            is_cut = self._cut and (is_call or self.context.required or not self.is_bare)
            cursor.at = len(cursor.text) if is_cut else self._end
            self._after_call = is_call
        else:
            self._pending.clear()
            self._index = self._n_calls
            cursor.at = self._start
            length = max((len(mark) for mark in self.openings if cursor.text.startswith(mark, cursor.at)), default=0)
            if not length:
                length = len(cursor.text[cursor.at :]) - len(cursor.text[cursor.at :].lstrip()) + 1
            self.add_text(space + cursor.text[cursor.at : cursor.at + length])
            cursor.at += length
        if ended and cursor.at < len(cursor.text):
            self.add_text(space + cursor.text[cursor.at :])
            cursor.at = len(cursor.text)
        self._open = False

    def _commit(self) -> None:
        """Return the calls that are certain now."""
        self._calls += [piece for piece in self._pending if piece.index < self._index]
        self._pending, self._n_calls = [], self._index

    def _put(self, piece: CallDelta) -> None:
        (self._calls if self._streams else self._pending).append(piece)

    def _forget(self) -> None:
        """Drop the text that has been read."""
        self.cursor.text, self.cursor.at = self.cursor.text[self.cursor.at :], 0

    def _take(self) -> AnswerDelta:
        delta = AnswerDelta("".join(self._reasoning), "".join(self._text), _merge(self._calls))
        self._text, self._reasoning, self._calls = [], [], []
        return delta


def _merge(pieces: Sequence[CallDelta]) -> tuple[CallDelta, ...]:
    """Return the pieces with those of the same call as one."""
    merged: list[CallDelta] = []
    for piece in pieces:
        if merged and merged[-1].index == piece.index:
            last = merged[-1]
            merged[-1] = CallDelta(last.index, last.id, last.name, last.arguments + piece.arguments)
        else:
            merged.append(piece)
    return tuple(merged)


def check_object(text: str) -> dict[str, Any]:
    """Return the JSON object in ``text``; raise NotACall if it is anything else, such as JSON with NaN."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise NotACall
    return value


def parse_json(text: str) -> Any:
    """Return the JSON value in ``text``; raise NotACall if it is not JSON that every reader accepts."""
    try:
        return parse_strict(text)
    except (ValueError, RecursionError):
        raise NotACall from None
