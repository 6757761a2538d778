"""Tool calls of Llama 4 and some Llama 3.2 models: a list of Python calls, ``[get_weather(city="Oslo"), get_time()]``.

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama4 (zero-shot function calling). The list may
stand between ``<|python_start|>`` and ``<|python_end|>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.cursor import Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import named_arguments
from llamafw_plugins.tool_parsers.json_calls import repeat
from llamafw_plugins.tool_parsers.python_calls import PythonCallParser, python_call_rule


class Pythonic(Hermes):
    """Lists of Python calls.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ("<|python_start|>", "<|python_end|>")
    delimited = False  # whether calls need the delimiters

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return "[get_weather(" in call or (not call and "func_name1(" in template)

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return PythonicParser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        if self.delimited:
            return self.marks[:1]
        return (self.marks[0], *(f"[{name}(" for name in sorted(context.names)))

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        opening, closing = (context.mark(mark) for mark in self.marks)
        calls = f'"[" {repeat(context, "call", ", ")} "]"'
        rules = " | ".join(f"({python_call_rule(tool)})" for tool in context.tools)
        start = f"{opening} {calls} {closing}"
        return f"start: {start if self.delimited else f'{calls} | {start}'}\ncall: {rules}\n"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        values = ", ".join(f"{key}={value!r}" for key, value in named_arguments(arguments).items())
        before, after = self.marks if self.delimited else ("", "")
        return f"{before}[{name}({values})]{after}"


class PythonicParser(PythonCallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = Pythonic.marks[:1]
    closing: ClassVar[str] = Pythonic.marks[1]
    bare: ClassVar[str] = "["

    def read_calls(self) -> Waiting[None]:
        """Read a list of calls."""
        yield from self.cursor.skip()
        yield from self.cursor.find(*self.openings)
        yield from self.cursor.skip()
        yield from self.read_python_list()
        yield from self.cursor.close(self.closing)
