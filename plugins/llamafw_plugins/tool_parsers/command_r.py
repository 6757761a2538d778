"""Tool calls of Cohere's Command R7B, Command A and later: an array from ``<|START_ACTION|>`` to ``<|END_ACTION|>``.

Format: https://docs.cohere.com/docs/command-r7b-hf. Each call has an id, ``tool_name`` and ``parameters``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamafw import ToolContext
from llamafw_plugins.tool_parsers.inline import Message, Tool, inline_tools, json_text
from llamafw_plugins.tool_parsers.json_calls import object_rule
from llamafw_plugins.tool_parsers.json_lists import JsonList


class CommandR(JsonList):
    """The Command R format.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing = "<|START_ACTION|>", "<|END_ACTION|>"

    def inline(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """Return ``messages`` with tools, calls and results written as text, for templates without tool support."""
        return inline_tools(messages, tools, write_call, write_call("function", {"parameter": "value"}))

    def call_rule(self, context: ToolContext) -> str:
        """Return the Lark expression of one call."""
        calls = object_rule(context.tools, "tool_name", "parameters").replace('"{\\"tool_name', '"\\"tool_name')
        return f'"{{\\"tool_call_id\\": \\"" /[0-9]{{1,3}}/ "\\", " {calls}'


def write_call(name: str, arguments: Any) -> str:
    """Return a call as text."""
    call = f'{{"tool_call_id": "0", "tool_name": {json.dumps(name)}, "parameters": {json_text(arguments)}}}'
    return f"{CommandR.opening}[{call}]{CommandR.closing}"
