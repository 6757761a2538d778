"""Separate text, reasoning and tool calls in the text of an answer, as it arrives.

Independent of the API that the answer is sent through.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamafw import Reasoning, ToolCall
from llamafw_plugins.endpoints.reasoning_reader import ReasoningReader
from llamafw_plugins.endpoints.tools import Tools

KEEPS_TAGS = ("none", "deepseek-legacy")  # formats that leave the reasoning in the text


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
    reasoning : Reasoning, optional
        How the answer may begin with reasoning.
    reasoning_format : str
        Where the reasoning goes; see ``--reasoning-format``.
    before : AnswerDelta
        What the answer begins with, before the model's own text.
    """

    def __init__(
        self,
        tools: Tools | None,
        reasoning: Reasoning | None = None,
        reasoning_format: str = "auto",
        before: AnswerDelta = AnswerDelta(),
    ) -> None:
        self.n_calls = 0  # calls found so far
        self._before = before
        self._reasoning = None if reasoning is None else ReasoningReader(reasoning)
        self._format = reasoning_format
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
        before, self._before = self._before, AnswerDelta()
        reasoning, raw = "", ""
        if self._reasoning is not None:
            delta = self._reasoning.read(text, last=last)
            text, raw = delta.rest, delta.raw if self._format in KEEPS_TAGS else ""
            reasoning = "" if self._format == "none" else delta.reasoning

        answer = self._read_calls(text, last=last)
        return AnswerDelta(before.reasoning + reasoning, before.text + raw + answer.text, answer.calls)

    def _read_calls(self, text: str, *, last: bool) -> AnswerDelta:
        """Return the text and the tool calls in the next piece after the reasoning."""
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
