"""The messages of a conversation, checked and made plain for chat templates. It knows nothing of templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llamafw import NotSupported, RequestError
from llamafw_plugins.endpoints.shapes import JSON

MEDIA = ("image_url", "input_image", "input_audio", "input_video", "file")


def plain_messages(messages: Sequence[JSON], template: str) -> list[JSON]:
    """Return the messages with text as their ``content``.

    The texts of several parts are joined by newlines. The role ``developer`` becomes ``system``, unless the template
    mentions it. Members without a value are left out, since templates ask whether a member is there.

    Raises
    ------
    RequestError
        A message has no content (400), or a part that is not text (400; 501 for images and sound).
    """
    knows_developer = "developer" in template
    return [_plain(message, i, knows_developer) for i, message in enumerate(messages)]


def _plain(message: JSON, i: int, knows_developer: bool) -> JSON:
    plain = {name: value for name, value in message.items() if value is not None}
    if message["role"] == "developer" and not knows_developer:
        plain["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        plain["content"] = "\n".join(_text(part, f"messages.{i}.content.{j}") for j, part in enumerate(content))
    elif content is None:
        if message["role"] != "assistant" or not message.get("tool_calls"):
            raise RequestError("the message has no content", param=f"messages.{i}.content")
        plain["content"] = ""
    if plain.get("tool_calls"):
        calls = enumerate(plain["tool_calls"])
        plain["tool_calls"] = [_call(call, f"messages.{i}.tool_calls.{j}.function.arguments") for j, call in calls]
    return plain


def _call(call: JSON, param: str) -> JSON:
    """Return an earlier call with its arguments as an object, which is what templates write as JSON."""
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise RequestError("the arguments are no JSON", param=param) from None
    if not isinstance(arguments, dict):
        raise RequestError("the arguments are no JSON object", param=param)
    return {**call, "function": {**function, "arguments": arguments}}


def _text(part: JSON, param: str) -> str:
    kind: Any = part["type"]
    if kind in MEDIA:
        raise NotSupported(
            f"parts of type {kind} are not supported by this server, which has no multimodal plugin", param=param
        )
    if kind != "text":
        raise RequestError(f"there is no part of type {kind[:40]!r}; there is 'text'", param=f"{param}.type")
    if not isinstance(part.get("text"), str):
        raise RequestError("the part has no text", param=f"{param}.text")
    return str(part["text"])
