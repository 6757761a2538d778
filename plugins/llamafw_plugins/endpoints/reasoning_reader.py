"""Separate the reasoning at the beginning of an answer from the text after it, as it arrives."""

from __future__ import annotations

from dataclasses import dataclass

from llamafw import ChatCapabilities, Reasoning
from llamafw_plugins.tool_parsers.cursor import beginning_of


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """What the next piece of an answer adds."""

    reasoning: str = ""
    rest: str = ""  # the answer after the reasoning
    raw: str = ""  # what the model wrote before ``rest``, with tags and white space


class ReasoningReader:
    """Reads the reasoning of one answer.

    Only the beginning of an answer is reasoning: tags later in the answer are its text. White space around the
    reasoning is removed.

    Parameters
    ----------
    reasoning : Reasoning
        The tags, and whether the prompt has opened the reasoning already.
    """

    def __init__(self, reasoning: Reasoning) -> None:
        self._start, self._end = reasoning.tags.start.strip(), reasoning.tags.end.strip()
        self._answer = reasoning.tags.answer
        self._state = "inside" if reasoning.opened else "before"
        self._held = ""  # text that is not certain yet
        self._any = False  # whether reasoning has been returned

    def read(self, text: str, *, last: bool) -> ReasoningDelta:
        """Return what the next piece of the answer adds.

        Parameters
        ----------
        text : str
            The next piece.
        last : bool
            Whether the answer ends with this piece.
        """
        self._held += text
        whole, reasoning = self._held, ""
        if self._state == "before":
            self._read_start(last)
        if self._state == "inside":
            reasoning = self._read_inside(last)
        if self._state == "after":
            self._read_gap(last)
        rest = ""
        if self._state == "answer":
            rest, self._held = self._held, ""
        return ReasoningDelta(reasoning, rest, whole[: len(whole) - len(self._held) - len(rest)])

    def _read_start(self, last: bool) -> None:
        """Find out whether the answer begins with reasoning."""
        text = self._held.lstrip()
        if text.startswith(self._start):
            self._state, self._held = "inside", text[len(self._start) :]
        elif last or (text and not self._start.startswith(text)):
            self._state = "answer"

    def _read_inside(self, last: bool) -> str:
        """Return the reasoning that is certain."""
        inside, tag, after = self._held.partition(self._end)
        if tag:
            self._state, self._held = "after", after
        elif last:
            self._held = ""
        else:
            inside = inside[: len(inside) - _n_uncertain(inside, self._end)]
            self._held = self._held[len(inside) :]
        if not self._any:
            inside = inside.lstrip()
        self._any = self._any or bool(inside)
        return inside.rstrip() if tag or last else inside

    def _read_gap(self, last: bool) -> None:
        """Drop white space, and what introduces the answer."""
        self._held = self._held.lstrip()
        if self._held.startswith(self._answer):
            self._held = self._held[len(self._answer) :].lstrip() if self._answer else self._held
        elif not last and self._answer.startswith(self._held):
            return
        if self._held or last:
            self._state = "answer"


def split_reasoning(text: str, can: ChatCapabilities) -> ReasoningDelta | None:
    """Return the reasoning at the beginning of an earlier answer, and the rest; None if it does not begin with any.

    Parameters
    ----------
    text : str
        The answer, as a client got it that wants the reasoning in the text.
    can : ChatCapabilities
        What the chat template can do.
    """
    tags = can.reasoning
    if tags is None or tags.end.strip() not in text:
        return None
    begins = text.lstrip().startswith(tags.start.strip())
    if not begins and not can.opens_reasoning:
        return None
    return ReasoningReader(Reasoning(tags, opened=not begins)).read(text, last=True)


def _n_uncertain(text: str, tag: str) -> int:
    """Return how many characters at the end of ``text`` may be white space before a tag, or the beginning of it."""
    n_tag = beginning_of(text, (tag,))
    before = text[: len(text) - n_tag]
    return n_tag + len(before) - len(before.rstrip())
