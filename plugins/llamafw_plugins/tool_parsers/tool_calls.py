"""Tool calls of Apriel, Hunyuan A13B, Jamba and MiniMax M1: ``<tool_calls>`` with JSON objects.

MiniMax M1 writes one object per line, the others an array; Jamba indents its objects.

Format: the chat templates of https://huggingface.co/ServiceNow-AI/Apriel-1.6-15b-Thinker, Hunyuan-A13B-Instruct of
tencent, AI21-Jamba-Mini-1.7 of ai21labs and MiniMax-M1-80k of MiniMaxAI.
"""

from __future__ import annotations

from typing import ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.json_calls import JsonCallParser, literal, object_rule, repeat
from llamafw_plugins.tool_parsers.json_lists import JsonList

OPENING, CLOSING = "<tool_calls>", "</tool_calls>"
_LAYOUTS = (("[", ", ", "]"), ("[\n    ", ",\n    ", "\n]"), ("\n", "\n", "\n"))
"""What stands before, between and after the objects."""


class ToolCalls(JsonList):
    """JSON objects between two tags.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing = OPENING, CLOSING

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return ToolCallsParser(context, self.triggers(context))

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        lists = " | ".join(
            f"({literal(before)} {repeat(context, 'call', between)} {literal(after)})"
            for before, between, after in _LAYOUTS
        )
        return f"start: {context.mark(OPENING)} ({lists}) {context.mark(CLOSING)}\ncall: {object_rule(context.tools)}\n"


class ToolCallsParser(JsonCallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (OPENING,)

    def read_calls(self) -> Waiting[None]:
        """Read the calls between two tags."""
        cursor = self.cursor
        yield from cursor.expect(OPENING)
        yield from cursor.skip()
        if (yield from cursor.peek()) not in "[{":
            raise NotACall
        yield from self.read_objects()
        while (yield from self._goes_on()):
            yield from self.read_object()
        yield from cursor.close(CLOSING)

    def _goes_on(self) -> Waiting[bool]:
        """Go past white space, if another object follows."""
        start = self.cursor.at
        yield from self.cursor.skip()
        if self.cursor.text.startswith("{", self.cursor.at):
            return True
        self.cursor.at = start
        return False
