"""Tool calls of Llama 3.1 to 4: ``{"name": …, "parameters": {…}}``, with or without ``<|python_tag|>`` before it.

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based and built-in tool calling). Calls
of built-in tools look like Python: ``<|python_tag|>brave_search.call(query="…")``. The chat template of Llama 4 writes
``<|python_start|>`` and ``<|python_end|>`` instead, and nothing between two objects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import write_object
from llamafw_plugins.tool_parsers.json_calls import JsonCallParser, object_rule, repeat
from llamafw_plugins.tool_parsers.python_calls import PythonCallParser

OPENING, START, END = "<|python_tag|>", "<|python_start|>", "<|python_end|>"


class Llama3(Hermes):
    """The Llama 3 format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = (OPENING, START, END)

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        if call:
            return '"name": "get_weather", "parameters": {' in call and '"tool_name"' not in call
        return "<|start_header_id|>" in template and '"parameters"' in template

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return Llama3Parser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        openings = self._openings(context)
        if context.may_be_json:
            return openings
        return (*openings, *(f'{{"name": {json.dumps(name)}' for name in sorted(context.names)))

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        (opening,) = self._openings(context)
        tag, end = context.mark(opening), f"({context.mark(END)})?" if opening == START else ""
        calls = repeat(context, "call", "" if opening == START else "; ")
        call = object_rule(context.tools, arguments_key="parameters")
        return f"start: {tag if context.may_be_json else f'({tag})?'} {end} {calls} {end}\ncall: {call}\n"

    def _openings(self, context: ToolContext) -> tuple[str]:
        """Return the string that begins calls in responses of the model."""
        return (START if START in context.control_tokens else OPENING,)

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return write_object(name, arguments, arguments_key="parameters")


class Llama3Parser(JsonCallParser, PythonCallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (OPENING, START)
    bare: ClassVar[str] = "{"

    def read_calls(self) -> Waiting[None]:
        """Read objects with semicolons between them, or the call of a built-in tool."""
        cursor, is_bare = self.cursor, self.is_bare
        yield from cursor.skip()
        if (yield from cursor.find(*self.openings)) == START:
            yield from cursor.skip()
            yield from cursor.find(END)
        yield from cursor.skip()
        if (yield from cursor.peek()) not in "{[":
            if is_bare:
                raise NotACall
            name = yield from cursor.name()
            yield from self.read_python_arguments(name.removesuffix(".call"))
            return

        yield from self.read_objects()
        while (yield from self._goes_on()):
            yield from self.read_object()
        yield from cursor.close(END)

    def _goes_on(self) -> Waiting[bool]:
        """Go to the next object if one follows, with or without a semicolon before it."""
        start = self.cursor.at
        yield from self.cursor.skip()
        if (yield from self.cursor.find(";")):
            yield from self.cursor.skip()
        if self.cursor.text.startswith("{", self.cursor.at):
            return True
        self.cursor.at = start
        return False
