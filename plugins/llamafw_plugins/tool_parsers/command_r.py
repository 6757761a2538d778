"""Tool calls of Cohere's Command R7B, Command A and later: an array from ``<|START_ACTION|>`` to ``<|END_ACTION|>``.

Format: https://docs.cohere.com/docs/command-r7b-hf. Each call has an id, ``tool_name`` and ``parameters``.
"""

from __future__ import annotations

from typing import Any

from llamafw import ToolContext
from llamafw_plugins.tool_parsers.inline import write_object
from llamafw_plugins.tool_parsers.json_calls import object_rule
from llamafw_plugins.tool_parsers.json_lists import JsonList


class CommandR(JsonList):
    """The Command R format.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing = "<|START_ACTION|>", "<|END_ACTION|>"

    def call_rule(self, context: ToolContext) -> str:
        """Return the Lark expression of one call."""
        calls = object_rule(context.tools, "tool_name", "parameters").replace('"{\\"tool_name', '"\\"tool_name')
        return f'"{{\\"tool_call_id\\": \\"" /[0-9]{{1,3}}/ "\\", " {calls}'

    def write_item(self, name: str, arguments: Any) -> str:
        """Return the text of one call in the array."""
        call = write_object(name, arguments, "tool_name", "parameters")
        return f'{{"tool_call_id": "0", {call[1:]}'
