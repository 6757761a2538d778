"""Tool calls of Hermes, Qwen and many other models: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

Format: https://github.com/NousResearch/Hermes-Function-Calling, and the model cards of Hermes 2 Pro and Qwen 2.5.
Models whose chat template does not support tools are asked to use it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.cursor import Waiting
from llamafw_plugins.tool_parsers.inline import inline_tools, write_object
from llamafw_plugins.tool_parsers.json_calls import JsonCallParser, object_rule, repeat

OPENING, CLOSING = "<tool_call>", "</tool_call>"

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


class Hermes:
    """The Hermes format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks: tuple[str, ...] = (OPENING, CLOSING)
    reads_all = False

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return OPENING in (call or template)

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return HermesParser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (OPENING,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        call = f'{context.mark(OPENING)} "\\n" {object_rule(context.tools)} "\\n" {context.mark(CLOSING)}'
        return f"start: {repeat(context, 'call', chr(10))}\ncall: {call}\n"

    def inline(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """Return ``messages`` with tools, calls and results written as text, for templates without tool support."""
        return inline_tools(messages, tools, self.write_call, self.write_call("function", {"parameter": "value"}))

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call; ``arguments`` is a text if the client sent arguments that are not JSON."""
        return f"{OPENING}\n{write_object(name, arguments)}\n{CLOSING}"


class HermesParser(JsonCallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (OPENING,)

    def read_calls(self) -> Waiting[None]:
        """Read the calls between two delimiters."""
        yield from self.cursor.expect(OPENING)
        yield from self.cursor.skip()
        yield from self.read_objects()
        yield from self.cursor.close(CLOSING)
