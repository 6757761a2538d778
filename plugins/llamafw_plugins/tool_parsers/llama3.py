"""Tool calls of Llama 3.1 to 3.3: ``{"name": …, "parameters": {…}}`` without any delimiters.

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based tool calling).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ToolParser
from llamafw_plugins.tool_parsers.delimited_calls import DelimitedCallParser, call_rule
from llamafw_plugins.tool_parsers.hermes import Hermes

OPENING = "<|python_tag|>"  # optional


class Llama3(Hermes):
    """The Llama 3 format.

    Implements `llamafw.ToolParserPlugin`.

    For templates without tool support, messages are written as in the Hermes format.
    """

    def matches(self, template: str) -> bool:
        """Return whether models with this chat template use this format."""
        return "<|start_header_id|>" in template and '"parameters"' in template

    def create(self) -> ToolParser:
        """Return a parser for one response."""
        return DelimitedCallParser(OPENING, None, allow_bare=True)

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar that allows one call of ``tools``, or several if ``parallel``, and nothing else."""
        more = '(";" call)*' if parallel else ""
        return f"start: call {more}\ncall: {call_rule(tools, 'parameters')}\n"
