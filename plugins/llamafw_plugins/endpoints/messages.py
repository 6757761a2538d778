"""Check the messages of a conversation and simplify them for chat templates.

Independent of any template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamafw import RequestError
from llamafw_plugins.endpoints.response_json import JSON

MEDIA = {
    "image_url": "images",
    "input_image": "images",
    "input_audio": "audio",
    "input_video": "video",
    "file": "files",
}
"""Types of content parts that only a multimodal model can read → what they carry."""


def plain_messages(messages: Sequence[JSON], template: str) -> list[JSON]:
    """Return the messages with one text as the ``content`` of each.

    The texts of several parts are joined by newlines. The role ``developer`` becomes ``system``, unless the template
    mentions it. Fields that are None are removed, because templates test whether a field is defined.

    Raises
    ------
    RequestError
        A message has no content, or a part that is not text.
    """
    knows_developer = "developer" in template
    return [_plain_message(message, i, knows_developer) for i, message in enumerate(messages)]


def _plain_message(message: JSON, i: int, knows_developer: bool) -> JSON:
    plain = {name: value for name, value in message.items() if value is not None}
    if message["role"] == "developer" and not knows_developer:
        plain["role"] = "system"

    content = message.get("content")
    if isinstance(content, list):
        plain["content"] = "\n".join(_part_text(part, f"messages.{i}.content.{j}") for j, part in enumerate(content))
    elif content is None:
        if message["role"] != "assistant" or not message.get("tool_calls"):
            raise RequestError("the message has no content", param=f"messages.{i}.content")
        plain["content"] = ""

    if plain.get("tool_calls"):
        calls = enumerate(plain["tool_calls"])
        plain["tool_calls"] = [_plain_call(call, f"messages.{i}.tool_calls.{j}") for j, call in calls]
    return plain


def _plain_call(call: JSON, param: str) -> JSON:
    """Return an earlier tool call with its arguments as an object; templates write the object as JSON."""
    param = f"{param}.function.arguments"
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise RequestError("the arguments are not valid JSON", param=param) from None
    if not isinstance(arguments, dict):
        raise RequestError("the arguments are not a JSON object", param=param)
    return {**call, "function": {**function, "arguments": arguments}}


def _part_text(part: JSON, param: str) -> str:
    kind: Any = part["type"]
    if kind in MEDIA:
        needed = f"{kind} needs a multimodal model and a plugin that reads {MEDIA[kind]}"
        raise RequestError(f"{needed}; this server's model reads text only", param=param)
    if kind != "text":
        message = f"the part type {kind[:40]!r} is not supported; this server's model reads 'text' only"
        raise RequestError(message, param=f"{param}.type")
    if not isinstance(part.get("text"), str):
        raise RequestError("the part has no text", param=f"{param}.text")
    return str(part["text"])
