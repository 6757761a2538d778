"""Convert the tools of the Responses API, which are flat, to those of chat completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafw_plugins.endpoints.response_json import JSON

FIELDS = ("name", "description", "parameters", "strict")


def chat_tools(tools: Sequence[JSON]) -> list[JSON]:
    """Return the tools in the format of chat completions."""
    return [
        {"type": "function", "function": {name: tool[name] for name in FIELDS if tool.get(name) is not None}}
        for tool in tools
    ]


def chat_tool_choice(choice: Any) -> Any:
    """Return a ``tool_choice`` in the format of chat completions."""
    if not isinstance(choice, dict):
        return choice
    if choice["type"] == "allowed_tools":
        tools = [{"type": "function", "function": {"name": tool["name"]}} for tool in choice["tools"]]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}}
    return {"type": "function", "function": {"name": choice["name"]}}


def described_tools(tools: Sequence[JSON]) -> list[JSON]:
    """Return the tools as a response repeats them: with all fields."""
    return [{"type": "function", **{name: tool.get(name) for name in FIELDS}} for tool in tools]
