"""Tool calls of Apertus: ``<|tools_prefix|>[{"get_weather": {…}}, …]<|tools_suffix|>``, the name is a key.

Format: the chat template of https://huggingface.co/swiss-ai/Apertus-8B-Instruct-2509.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.call_parser import CallParser, parse_json
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.inline import json_text
from llamafw_plugins.tool_parsers.json_calls import arguments_rule, literal
from llamafw_plugins.tool_parsers.json_lists import JsonList

OPENING, CLOSING = "<|tools_prefix|>", "<|tools_suffix|>"


class Apertus(JsonList):
    """The Apertus format.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing = OPENING, CLOSING

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return ApertusParser(context, self.triggers(context))

    def call_rule(self, context: ToolContext) -> str:
        """Return the Lark expression of one call."""
        calls = []
        for tool in context.tools:
            beginning = f"{{{json.dumps(tool['function']['name'])}: "
            calls.append(f'{literal(beginning)} {arguments_rule(tool)} "}}"')
        return f"({' | '.join(calls)})"

    def write_item(self, name: str, arguments: Any) -> str:
        """Return the text of one call in the array."""
        return f"{{{json.dumps(name)}: {json_text(arguments)}}}"


class ApertusParser(CallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (OPENING,)

    def read_calls(self) -> Waiting[None]:
        """Read an array of calls."""
        cursor = self.cursor
        yield from cursor.expect(OPENING)
        yield from cursor.skip()
        yield from cursor.expect("[")
        while True:
            yield from cursor.skip()
            yield from self._read_call()
            yield from cursor.skip()
            if (yield from cursor.expect(",", "]")) == "]":
                self._end = cursor.at
                break
        yield from cursor.close(CLOSING)

    def _read_call(self) -> Waiting[None]:
        """Read an object whose only key is the name of the tool."""
        cursor = self.cursor
        yield from cursor.expect("{")
        yield from cursor.skip()
        if (yield from cursor.peek()) != '"':
            raise NotACall
        name = parse_json((yield from cursor.json()))
        yield from cursor.skip()
        yield from cursor.expect(":")
        yield from cursor.skip()
        yield from self.read_arguments(name)
        yield from cursor.skip()
        yield from cursor.expect("}")
        self._end = cursor.at
