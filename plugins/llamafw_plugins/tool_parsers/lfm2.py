"""Tool calls of LFM2: a list of Python calls between ``<|tool_call_start|>`` and ``<|tool_call_end|>``.

Format: https://docs.liquid.ai/lfm/key-concepts/tool-use
"""

from __future__ import annotations

from typing import ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.pythonic import Pythonic, PythonicParser


class Lfm2(Pythonic):
    """The LFM2 format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ("<|tool_call_start|>", "<|tool_call_end|>")
    delimited = True

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format; some write tools, but no calls."""
        return (
            self.marks[0] in (call or template) or "<|tool_list_start|>" in template or "keep_past_thinking" in template
        )

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return Lfm2Parser(context, self.triggers(context))


class Lfm2Parser(PythonicParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = Lfm2.marks[:1]
    closing: ClassVar[str] = Lfm2.marks[1]
    bare: ClassVar[str] = ""
