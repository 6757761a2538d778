"""Convert the messages of a request to those of chat completions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from llamafw_plugins.anthropic.blocks import block_text, check_block, result_text
from llamafw_plugins.anthropic.signatures import read_thinking
from llamafw_plugins.endpoints.response_json import JSON

CLIENT_HEADER = "x-anthropic-billing-header:"
"""Begins a block that Claude Code puts before its system prompt: a header for Anthropic's servers, not a text.

It differs in every request, so no request could reuse the cached prompt of the one before.
"""

ERROR_PREFIX = "Error: "  # marks the result of a call that has failed
_PLACE = re.compile(r"^messages\.(\d+)(?:\.content)?(?:\.(\d+))?(.*)$")


@dataclass(slots=True)
class Conversation:
    """Messages of chat completions, and where in the request they come from."""

    messages: list[JSON] = field(default_factory=list)
    places: list[list[str]] = field(default_factory=list)  # of each part of each message

    def locate(self, param: str) -> str:
        """Return the path in the request for a path in `messages`; other paths are returned as they are."""
        if (match := _PLACE.match(param)) is None or int(match[1]) >= len(self.places):
            return param
        places, i = self.places[int(match[1])], int(match[2] or 0)
        return f"{places[i] if i < len(places) else places[0]}{match[3]}"


def read_conversation(body: JSON) -> Conversation:
    """Return the conversation of a validated request.

    Consecutive messages of the same role become one. Results of tools become messages of their own, before the text
    that follows them.

    Raises
    ------
    RequestError
        A block has a type that is not supported here, or lacks a member.
    """
    reader = _Reader()
    if body.get("system"):
        reader.read("system", body["system"], "system")
    for i, message in enumerate(body["messages"]):
        reader.read(message["role"], message["content"], f"messages.{i}.content")
    return reader.conversation()


class _Reader:
    """Reads one message after another."""

    def __init__(self) -> None:
        self._messages: list[JSON] = []
        self._places: list[list[str]] = []
        self._names: dict[str, str] = {}  # id of a call → name of its tool

    def conversation(self) -> Conversation:
        for message in self._messages:
            parts = message["content"]
            if isinstance(parts, list) and len(parts) < 2:
                message["content"] = parts[0]["text"] if parts else ""
        return Conversation(self._messages, self._places)

    def read(self, role: str, content: str | Sequence[JSON], place: str) -> None:
        """Add one message of the request."""
        if isinstance(content, str):
            self._add_text(self._message(role, place), content, place)
            return

        if not content and role != "system":
            self._message(role, place)
        for j, block in enumerate(content):
            self._add_block(role, block, f"{place}.{j}")

    def _add_block(self, role: str, block: JSON, place: str) -> None:
        kind = block["type"]
        check_block(role, block, place)
        match kind:
            case "text" if role == "system" and block["text"].startswith(CLIENT_HEADER):
                pass
            case "text" | "document" | "search_result":
                self._add_text(self._message(role, place), block_text(block, place), place)
            case "tool_result":
                self._add_result(block, place)
            case "tool_use":
                self._add_call(self._message(role, place), block)
            case "thinking":
                message = self._message(role, place)
                texts = message.get("reasoning_content"), read_thinking(block["thinking"], block.get("signature") or "")
                message["reasoning_content"] = "\n".join(filter(None, texts))
            case "redacted_thinking":  # of another server, readable only there
                self._message(role, place)

    def _message(self, role: str, place: str) -> JSON:
        """Return the message to which content of a role belongs: the last one, or a new one."""
        if self._messages and self._messages[-1]["role"] == role:
            return self._messages[-1]
        message: JSON = {"role": role, "content": []}
        self._messages.append(message)
        self._places.append([place])
        return message

    def _add_text(self, message: JSON, text: str, place: str) -> None:
        places = self._places[-1]
        if message["content"]:
            places.append(place)
        else:
            places[:] = [place]
        message["content"].append({"type": "text", "text": text})

    def _add_call(self, message: JSON, block: JSON) -> None:
        self._names[block["id"]] = block["name"]
        function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
        message.setdefault("tool_calls", []).append({"id": block["id"], "type": "function", "function": function})

    def _add_result(self, block: JSON, place: str) -> None:
        text = result_text(block.get("content"), f"{place}.content")
        if block.get("is_error") and not text.lower().startswith("error"):
            text = ERROR_PREFIX + text
        message = {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}
        if (name := self._names.get(block["tool_use_id"])) is not None:
            message["name"] = name
        self._messages.append(message)
        self._places.append([f"{place}.content"])
