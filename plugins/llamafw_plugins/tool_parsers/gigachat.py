"""Tool calls of GigaChat 3: a JSON object in a message of the role ``function call``, or after ``<|function_call|>``.

Format: the chat templates of https://huggingface.co/ai-sage/GigaChat3-10B-A1.8B and GigaChat3.1-10B-A1.8B. A message
has one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.cursor import Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import write_object
from llamafw_plugins.tool_parsers.json_calls import JsonCallParser, literal, object_rule

ROLE, SEPARATOR, END, MARK = "function call", "<|role_sep|>", "<|message_sep|>", "<|function_call|>"


class GigaChat3(Hermes):
    """The format of GigaChat 3.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks: tuple[str, ...] = (SEPARATOR, END)

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return f"{ROLE}{SEPARATOR}" in call

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response, which reads both formats."""
        return GigaChatParser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return GigaChatParser.openings[:2]

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows one call and nothing else."""
        end = context.mark(END)
        before = f'({end} {literal(chr(10) * 2)})? {literal(ROLE)} {context.mark(SEPARATOR)} "\\n"'
        return f"start: {before} {object_rule(context.tools)}\n"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{ROLE}{SEPARATOR}\n{write_object(name, arguments)}"


class GigaChat31(GigaChat3):
    """The format of GigaChat 3.1.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = (MARK,)

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return MARK in call

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (MARK,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows one call and nothing else."""
        return f"start: {context.mark(MARK)} {object_rule(context.tools)}\n"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{MARK}{write_object(name, arguments)}"


class GigaChatParser(JsonCallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (f"{END}\n\n{ROLE}{SEPARATOR}", f"{ROLE}{SEPARATOR}", MARK)

    def read_calls(self) -> Waiting[None]:
        """Read the call after an opening."""
        cursor = self.cursor
        yield from cursor.expect(*self.openings)
        yield from cursor.skip()
        yield from self.read_object()
        yield from cursor.close(END)
