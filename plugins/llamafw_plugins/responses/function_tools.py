"""Check the tools of the Responses API, which are flat, and convert them to those of chat completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafw import RequestError
from llamafw_plugins.endpoints.response_json import JSON

FIELDS = ("name", "description", "parameters", "strict")


def check_tools(body: JSON) -> None:
    """Raise RequestError if a request has a tool or a ``tool_choice`` of a type that this server lacks."""
    _check_functions(body.get("tools") or (), "tools")
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return
    if choice["type"] == "allowed_tools":
        _require(choice, ("mode", "tools"), "tool_choice")
        _check_functions(choice["tools"], "tool_choice.tools")
    elif choice["type"] == "function":
        _require(choice, ("name",), "tool_choice")
    else:
        message = f"a tool_choice of the type {choice['type'][:40]!r} is not supported"
        raise RequestError(f"{message}; this server has 'function' and 'allowed_tools'", param="tool_choice.type")


def _check_functions(tools: Sequence[JSON], param: str) -> None:
    for i, tool in enumerate(tools):
        if tool["type"] != "function":
            message = f"a tool of the type {tool['type'][:40]!r} is not supported; this server has 'function' only"
            raise RequestError(message, param=f"{param}.{i}.type")
        _require(tool, ("name",), f"{param}.{i}")


def _require(value: JSON, names: Sequence[str], param: str) -> None:
    for name in names:
        if name not in value:
            raise RequestError(f"{param}.{name} is required", param=f"{param}.{name}")


def chat_tools(tools: Sequence[JSON], choice: Any) -> tuple[list[JSON], Any]:
    """Return the tools and the ``tool_choice`` in the format of chat completions."""
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        allowed = [_chosen(tool) for tool in choice["tools"]]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": allowed}}
    elif isinstance(choice, dict):
        choice = _chosen(choice)

    functions = [{name: tool[name] for name in FIELDS if tool.get(name) is not None} for tool in tools]
    return [{"type": "function", "function": function} for function in functions], choice


def _chosen(tool: JSON) -> JSON:
    return {"type": "function", "function": {"name": tool["name"]}}


def described_tools(tools: Sequence[JSON]) -> list[JSON]:
    """Return the tools as a response repeats them: with all fields."""
    return [{"type": "function", **{name: tool.get(name) for name in FIELDS}} for tool in tools]
