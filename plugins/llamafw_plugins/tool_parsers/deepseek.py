"""Tool calls of DeepSeek V3, R1 and later, between control tokens with full-width bars in their names.

Format: the chat templates of https://huggingface.co/deepseek-ai/DeepSeek-R1 and DeepSeek-V3.1. V3 and R1 write the word
``function``, the name, and the arguments in a block of Markdown; V3.1 writes only the name and the arguments.
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

BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
FENCE, FENCE_END = "\n```json\n", "\n```"


class DeepSeekV31(Hermes):
    """The format of DeepSeek V3.1.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = (BEGIN, END, CALL, SEPARATOR, CALL_END)
    separator: ClassVar[str] = ""  # between two calls

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return BEGIN in (call or template)

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response, which reads both formats."""
        return DeepSeekParser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (BEGIN,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        calls = " | ".join(
            self.call_rule(context, tool["function"]["name"], arguments_rule(tool)) for tool in context.tools
        )
        call = f"{context.mark(CALL)} ({calls}) {context.mark(CALL_END)}"
        many = repeat(context, "call", self.separator)
        return f"start: {context.mark(BEGIN)} {many} {context.mark(END)}\ncall: {call}\n"

    def call_rule(self, context: ToolContext, name: str, arguments: str) -> str:
        """Return a Lark expression for what stands between the marks of one call."""
        return f"{literal(name)} {context.mark(SEPARATOR)} {arguments}"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{BEGIN}{CALL}{name}{SEPARATOR}{json_text(arguments)}{CALL_END}{END}"


class DeepSeekV3(DeepSeekV31):
    """The format of DeepSeek V3 and R1.

    Implements `llamafw.ToolParserPlugin`.
    """

    separator = "\n"

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return BEGIN in (call or template) and "```json" in (call or template)

    def call_rule(self, context: ToolContext, name: str, arguments: str) -> str:
        """Return a Lark expression for what stands between the marks of one call."""
        return f'"function" {context.mark(SEPARATOR)} {literal(name + FENCE)} {arguments} {literal(FENCE_END)}'

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        fenced = f"{FENCE}{json_text(arguments)}{FENCE_END}"
        return f"{BEGIN}{CALL}function{SEPARATOR}{name}{fenced}{CALL_END}{END}"


class DeepSeekParser(CallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (BEGIN, CALL)

    def read_calls(self) -> Waiting[None]:
        """Read the calls between two marks, or calls without these marks."""
        cursor = self.cursor
        yield from cursor.find(BEGIN)
        while True:
            yield from cursor.skip()
            if (yield from cursor.expect(CALL, END)) == END:
                if self._index == self._n_calls and self._end == self._start:
                    raise NotACall
                return
            yield from self._read_call()
            if cursor.ended and not cursor.text[cursor.at :].strip():
                return

    def _read_call(self) -> Waiting[None]:
        """Read a call after its first mark."""
        cursor = self.cursor
        name = yield from cursor.name()
        yield from cursor.expect(SEPARATOR)
        yield from cursor.skip()
        fenced = False
        if (yield from cursor.peek()) != "{":
            name = yield from cursor.name()
            yield from cursor.skip()
            fenced = bool((yield from cursor.find("```json", "```")))
            yield from cursor.skip()
        yield from self.read_arguments(name)
        if fenced:
            yield from cursor.close("```")
        yield from cursor.close(CALL_END)
