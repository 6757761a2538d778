"""POST /api/chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from llamafw import App, Call
from llamafw_plugins.endpoints.chat_requests import prepare_chat
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.ollama.lines import LineBuilder, respond
from llamafw_plugins.ollama.options import errors_about, format_fields, read_options, refuse_images, thinking_fields


class OllamaChatEndpoints:
    """The operation `createOllamaChat`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer a conversation."""
        body, options = call.body, read_options(call, self.app)
        builder = ChatLines(self.app, body)
        if not body.get("messages"):
            return builder.loaded()

        chat = {**options, **format_fields(body), **thinking_fields(body), "messages": chat_messages(body["messages"])}
        if body.get("tools"):
            chat["tools"] = [{"type": "function", **tool} for tool in body["tools"]]
        with errors_about(body):
            prepared = await prepare_chat(self.app, chat)
        return await respond(self.app, prepared.requests[0], prepared.reader(), builder, body)


class ChatLines(LineBuilder):
    """Builds lines with a ``message``."""

    def content(self, text: str, thinking: str, calls: Sequence[JSON]) -> JSON:
        """Return the message."""
        message: JSON = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = list(calls)
        return {"message": message}

    def read_content(self, line: JSON) -> tuple[str, str, Sequence[JSON]]:
        """Return the text, the thinking and the calls of a message."""
        message = line["message"]
        return message["content"], message.get("thinking", ""), message.get("tool_calls", ())


def chat_messages(messages: Sequence[JSON]) -> list[JSON]:
    """Return the messages of a chat completion.

    Calls get ids if they have none. The result of a tool without the id of its call belongs to the first call of this
    tool that has no result yet.

    Raises
    ------
    RequestError
        A message has images.
    """
    converted, open_calls = [], list[JSON]()
    for i, message in enumerate(messages):
        refuse_images(message.get("images"), f"messages.{i}.images")
        chat: JSON = {"role": message["role"], "content": message.get("content") or ""}
        if message.get("thinking"):
            chat["reasoning_content"] = message["thinking"]
        if message.get("tool_calls"):
            chat["tool_calls"] = [_chat_call(call, f"call_{i}_{j}") for j, call in enumerate(message["tool_calls"])]
            open_calls = list(chat["tool_calls"])
        if message["role"] == "tool":
            chat |= _result_fields(message, open_calls, f"call_{i}")
        converted.append(chat)
    return converted


def _chat_call(call: JSON, default_id: str) -> JSON:
    function, arguments = call["function"], call["function"].get("arguments")
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    return {
        "id": call.get("id") or default_id,
        "type": "function",
        "function": {"name": function["name"], "arguments": text},
    }


def _result_fields(message: JSON, open_calls: list[JSON], default_id: str) -> JSON:
    """Return the name and the id of the call that a result belongs to; remove this call from the open ones."""
    id, name = message.get("tool_call_id"), message.get("tool_name") or message.get("name")
    for call in open_calls:
        if (id is None or call["id"] == id) and (id is not None or name in (None, call["function"]["name"])):
            open_calls.remove(call)
            return {"tool_call_id": call["id"], "name": call["function"]["name"]}
    return {"tool_call_id": id or default_id, **({"name": name} if name else {})}
