"""Separate text, reasoning and tool calls in the text of an answer, as it arrives.

Independent of the API that the answer is sent through.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from llamafw import AnswerDelta, CallDelta, Reasoning, ToolCall, ToolParser
from llamafw_plugins.endpoints.reasoning_reader import ReasoningReader
from llamafw_plugins.endpoints.tools import Tools

__all__ = ["AnswerDelta", "AnswerReader", "CallDelta", "is_json", "read_call_arguments", "whole_calls"]

NOTHING = AnswerDelta()
KEEPS_TAGS = ("none", "deepseek-legacy")  # formats that leave the reasoning in the text


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
    parser : ToolParser, optional
        Reads answers if no tools are offered, for formats that need it.
    """

    def __init__(
        self,
        tools: Tools | None,
        reasoning: Reasoning | None = None,
        reasoning_format: str = "auto",
        before: AnswerDelta = NOTHING,
        parser: ToolParser | None = None,
    ) -> None:
        self.n_calls = 0  # calls found so far
        self._before = before
        self._reasoning = None if reasoning is None else ReasoningReader(reasoning)
        self._format = reasoning_format
        self._parser = tools.create_parser() if tools else parser
        self._max_calls = None if tools is None or tools.parallel else 1

    def read(self, text: str, *, last: bool, cut: bool = False) -> AnswerDelta:
        """Return what the next piece of the answer adds.

        Parameters
        ----------
        text : str
            The next piece.
        last : bool
            Whether the answer ends with this piece.
        cut : bool
            Whether it ends there because of a limit.
        """
        before, self._before = self._before, NOTHING
        reasoning, raw = "", ""
        if self._reasoning is not None:
            delta = self._reasoning.read(text, last=last)
            text, raw = delta.rest, delta.raw if self._format in KEEPS_TAGS else ""
            reasoning = "" if self._format == "none" else delta.reasoning

        answer = self._read_calls(text, last=last, cut=cut)
        reasoning = before.reasoning + reasoning + answer.reasoning
        return AnswerDelta(reasoning, before.text + raw + answer.text, answer.calls)

    def _read_calls(self, text: str, *, last: bool, cut: bool) -> AnswerDelta:
        """Return the text and the tool calls in the next piece after the reasoning."""
        if self._parser is None:
            return AnswerDelta(text=text)

        answer = self._parser.feed(text)
        reasoning, plain, calls = answer.reasoning, answer.text, answer.calls
        if last:
            rest = self._parser.finish(cut=cut)
            reasoning, plain, calls = reasoning + rest.reasoning, plain + rest.text, (*calls, *rest.calls)
        if self._max_calls is not None:
            calls = tuple(call for call in calls if call.index < self._max_calls)
        if self._format == "none":
            reasoning, plain = "", reasoning + plain
        self.n_calls = max([self.n_calls, *(call.index + 1 for call in calls)])
        return AnswerDelta(reasoning, plain, calls)


def read_call_arguments(text: str) -> dict[str, Any] | None:
    """Return the arguments of a call that the model has written; None if they are not a JSON object."""
    try:
        arguments = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return None
    return arguments if isinstance(arguments, dict) else None


def whole_calls(answer: AnswerDelta) -> list[ToolCall]:
    """Return the whole tool calls of an answer that was read as one piece.

    A call whose arguments are cut is not one of them.
    """
    calls: dict[int, ToolCall] = {}
    for delta in answer.calls:
        before = calls.get(delta.index, ToolCall(delta.id, delta.name or "", ""))
        calls[delta.index] = ToolCall(before.id, before.name, before.arguments + delta.arguments)
    return [call for call in calls.values() if is_json(call.arguments)]


def is_json(text: str) -> bool:
    """Return whether a text is JSON, so that a call with these arguments is whole."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
