"""Tool calls of Kimi K2: ``functions.name:0`` and arguments between control tokens.

Format: https://huggingface.co/moonshotai/Kimi-K2-Instruct/blob/main/docs/tool_call_guidance.md. The name with its
number is the id of the call, which the model expects in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.call_parser import CallParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import json_text
from llamafw_plugins.tool_parsers.json_calls import arguments_rule, literal, repeat

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"


class KimiK2(Hermes):
    """The Kimi K2 format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = (BEGIN, END, CALL, ARGUMENTS, CALL_END)

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return BEGIN in (call or template)

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return KimiK2Parser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (BEGIN,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        calls = " | ".join(
            f"{literal('functions.' + tool['function']['name'] + ':')} /[0-9]{{1,3}}/ {context.mark(ARGUMENTS)} "
            f"{arguments_rule(tool)}"
            for tool in context.tools
        )
        call = f"{context.mark(CALL)} ({calls}) {context.mark(CALL_END)}"
        return f"start: {context.mark(BEGIN)} {repeat(context, 'call')} {context.mark(END)}\ncall: {call}\n"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{BEGIN}{CALL}functions.{name}:0{ARGUMENTS}{json_text(arguments)}{CALL_END}{END}"


class KimiK2Parser(CallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (BEGIN,)

    def read_calls(self) -> Waiting[None]:
        """Read the calls between two marks."""
        cursor = self.cursor
        yield from cursor.expect(BEGIN)
        while True:
            yield from cursor.skip()
            if (yield from cursor.expect(CALL, END)) == END:
                if self._end == self._start:
                    raise NotACall
                return
            yield from cursor.skip()
            id = yield from cursor.name()
            yield from cursor.skip()
            yield from cursor.expect(ARGUMENTS)
            yield from cursor.skip()
            yield from self.read_arguments(id.removeprefix("functions.").rpartition(":")[0] or id, id)
            yield from cursor.close(CALL_END)
            if cursor.ended and not cursor.text[cursor.at :].strip():
                return
