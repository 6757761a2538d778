"""Tool calls of IBM's Granite 3: ``<|tool_call|>[{"name": …, "arguments": {…}}, …]``.

Granite 4 uses the Hermes format.

Format: https://www.ibm.com/granite/docs/models/granite (function calling).
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.json_lists import JsonList


class Granite(JsonList):
    """The Granite format.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening = "<|tool_call|>"

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return self.opening in (call or template) and "<|/tool_call|>" not in template
