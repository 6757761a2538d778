"""Convert a request to one for chat completions, and the paths of its errors back."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any

from llamafw import RequestError
from llamafw_plugins.anthropic.conversation import Conversation
from llamafw_plugins.endpoints.chat_requests import errors_about_request
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.thinking import known_effort

OWN_FIELDS = (
    "cache_control",
    "messages",
    "metadata",
    "output_config",
    "output_format",
    "service_tier",
    "stop_sequences",
    "system",
    "thinking",
    "tool_choice",
    "tools",
)
"""Fields that chat completions do not have, or have in another format."""

TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_RENAMED = (
    (re.compile(r"\bresponse_format(\.json_schema)?"), "output_config.format"),
    (re.compile(r"^(tools\.\d+)\.function\.parameters"), r"\1.input_schema"),
    (re.compile(r"^(tools\.\d+)\.function"), r"\1"),
    (re.compile(r"^tool_choice\.function"), "tool_choice"),
    (re.compile(r"^stop$"), "stop_sequences"),
    (re.compile(r"^reasoning_effort$"), "output_config.effort"),
    (re.compile(r"^reasoning_budget_tokens$"), "thinking.budget_tokens"),
    (re.compile(r"^prompt$"), "messages"),
)
"""Paths of fields of chat completions → those of the same fields here."""


def chat_body(body: JSON, conversation: Conversation) -> JSON:
    """Return the body of the chat completion that answers a validated request.

    Raises
    ------
    RequestError
        Two fields ask for different formats, or a tool is not one of the client's own.
    """
    chat = {name: value for name, value in body.items() if name not in OWN_FIELDS}
    chat["messages"] = conversation.messages
    chat["tools"] = [_chat_tool(tool, i) for i, tool in enumerate(body.get("tools") or ())]
    chat |= _tool_choice(body.get("tool_choice")) | _thinking(body)
    if (format := _output_format(body)) is not None:
        chat["response_format"] = {"type": "json_schema", "json_schema": {"schema": format["schema"]}}
    if stop := [*(body.get("stop_sequences") or ()), *_stop_strings(body.get("stop"))]:
        chat["stop"] = stop
    return chat


def _stop_strings(stop: Any) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or ())


def _chat_tool(tool: JSON, i: int) -> JSON:
    if tool.get("type") not in (None, "custom"):
        message = f"tools of the type {tool['type'][:40]!r} are not supported; define a tool with an input_schema"
        raise RequestError(message, param=f"tools.{i}.type")
    if tool.get("input_schema") is None:
        raise RequestError("the tool has no input_schema", param=f"tools.{i}.input_schema")
    members = {"name": tool["name"], "description": tool.get("description"), "strict": tool.get("strict")}
    function = {name: value for name, value in members.items() if value is not None}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _tool_choice(choice: JSON | None) -> JSON:
    if choice is None:
        return {}
    if choice["type"] != "tool":
        chosen: Any = TOOL_CHOICES[choice["type"]]
    elif choice.get("name") is None:
        raise RequestError("tool_choice of the type tool needs a name", param="tool_choice.name")
    else:
        chosen = {"type": "function", "function": {"name": choice["name"]}}
    return {"tool_choice": chosen, "parallel_tool_calls": not choice.get("disable_parallel_tool_use")}


def _thinking(body: JSON) -> JSON:
    """Return the fields that switch thinking on or off and limit it.

    Without `thinking`, and with the types that leave it to the model, the server's settings decide.
    """
    fields: JSON = {}
    thinking = body.get("thinking") or {}
    if thinking.get("type") in ("enabled", "disabled"):
        fields["enable_thinking"] = thinking["type"] == "enabled"
    if thinking.get("type") == "enabled":
        if thinking.get("budget_tokens") is None:
            raise RequestError("thinking of the type enabled needs budget_tokens", param="thinking.budget_tokens")
        fields["reasoning_budget_tokens"] = thinking["budget_tokens"]

    effort = (body.get("output_config") or {}).get("effort")
    if effort is not None:
        fields["reasoning_effort"] = known_effort(effort)
    return fields


def _output_format(body: JSON) -> JSON | None:
    """Return the format of the answer; `output_format` is the older name of `output_config.format`."""
    older, newer = body.get("output_format"), (body.get("output_config") or {}).get("format")
    if older is not None and newer is not None:
        message = "either output_format or output_config.format can be specified, but not both"
        raise RequestError(message, param="output_format")
    format: JSON | None = older if newer is None else newer
    return format


def errors_about(conversation: Conversation) -> AbstractContextManager[None]:
    """Return a context in which errors about the chat body become errors about the request of a conversation."""
    return errors_about_request(conversation.locate, _RENAMED)
