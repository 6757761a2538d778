"""Separate text, reasoning and tool calls in the text of an answer, as it arrives.

Independent of the API that the answer is sent through.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamafw import ToolCall
from llamafw_plugins.endpoints.tools import Tools


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a tool call.

    The pieces of one call arrive in order, and before those of the next call.
    """

    index: int  # number of the call in the answer, from 0
    id: str  # unique within the answer; the same in all pieces
    name: str | None  # name of the tool, in the first piece; None in later pieces
    arguments: str  # the next characters of a JSON object


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """What the next piece of an answer's text adds: reasoning first, then text, then calls."""

    reasoning: str = ""
    text: str = ""
    calls: tuple[CallDelta, ...] = ()


class AnswerReader:
    """Reads the text of one answer.

    Parameters
    ----------
    tools : Tools, optional
        The tools that the request offers.
    """

    def __init__(self, tools: Tools | None) -> None:
        self.n_calls = 0  # calls found so far
        self._parser = tools.parser.create() if tools else None
        self._max_calls = None if tools is None or tools.parallel else 1

    def read(self, text: str, *, last: bool) -> AnswerDelta:
        """Return what the next piece of the answer adds.

        Parameters
        ----------
        text : str
            The next piece.
        last : bool
            Whether the answer ends with this piece.
        """
        if self._parser is None:
            return AnswerDelta(text=text)

        plain, parsed = self._parser.feed(text)
        calls = list(parsed)
        if last:
            rest, more = self._parser.finish()
            plain, calls = plain + rest, [*calls, *more]

        calls = calls if self._max_calls is None else calls[: self._max_calls - self.n_calls]
        first = self.n_calls
        self.n_calls += len(calls)
        deltas = (CallDelta(i, call.id, call.name, call.arguments) for i, call in enumerate(calls, first))
        return AnswerDelta(text=plain, calls=tuple(deltas))


def whole_calls(deltas: AnswerDelta) -> list[ToolCall]:
    """Return the tool calls of an answer that was read as one piece."""
    calls: dict[int, ToolCall] = {}
    for delta in deltas.calls:
        before = calls.get(delta.index, ToolCall(delta.id, delta.name or "", ""))
        calls[delta.index] = ToolCall(before.id, before.name, before.arguments + delta.arguments)
    return list(calls.values())
