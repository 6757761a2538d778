"""Tool calls of Phi-4-mini: ``<|tool_call|>[{"name": …, "arguments": {…}}, …]<|/tool_call|>``.

Format: https://huggingface.co/microsoft/Phi-4-mini-instruct (tool-enabled function-calling format).
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.json_lists import JsonList


class Phi4Mini(JsonList):
    """The Phi-4-mini format.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing = "<|tool_call|>", "<|/tool_call|>"

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format; Phi-4-mini's writes tools, but no calls."""
        return self.closing in call or (not call and "<|tool|>" in template)
