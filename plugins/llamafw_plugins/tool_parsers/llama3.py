"""Calls as JSON and nothing else: ``{"name": …, "parameters": {…}}``, Llama 3.1 to 3.3.

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based tool calling).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ToolParser
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.marked import MarkedParser, calls_of

OPENING = "<|python_tag|>"


class Llama3(Hermes):
    """A `llamafw.ToolParserPlugin`."""

    def matches(self, template: str) -> bool:
        """Return whether the template writes calls this way."""
        return "<|start_header_id|>" in template and '"parameters"' in template

    def create(self) -> ToolParser:
        """Return a parser for one answer."""
        return MarkedParser(OPENING, None, bare=True)

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar of answers that are calls and nothing else."""
        more = '(";" call)*' if parallel else ""
        return f"start: call {more}\ncall: {calls_of(tools, 'parameters')}\n"
