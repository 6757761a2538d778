"""Turn the items of a response's input into the messages of a chat."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from llamafw import RequestError
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.responses.function_tools import function_name
from llamafw_plugins.responses.input_items import InputItems, part_text, reasoning_text

_MESSAGE_PARAM = re.compile(r"messages\.(\d+)(.*)")


@dataclass(slots=True)
class Messages:
    """Messages in the format of chat completions, each with the request field that it came from."""

    messages: list[JSON] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)

    def add(self, message: JSON, origin: str) -> None:
        """Append a message."""
        self.messages.append(message)
        self.origins.append(origin)

    def locate(self, param: str) -> str:
        """Return the request field for a path in the messages, such as ``messages.2.content.0``."""
        found = _MESSAGE_PARAM.fullmatch(param)
        if found is None or int(found[1]) >= len(self.origins):
            return param
        origin, rest = self.origins[int(found[1])], found[2]
        return origin + rest if origin.startswith("input.") and rest.startswith(".content") else origin


def read_messages(instructions: str | None, found: InputItems) -> Messages:
    """Return the conversation that the model continues.

    The items that an answer consists of (reasoning, text and calls) become one message, as the model wrote them.

    Raises
    ------
    RequestError
        The output of a function call does not follow the call.
    """
    result = Messages()
    if instructions:
        result.add({"role": "system", "content": instructions}, "instructions")

    calls: set[str] = set()
    turn: JSON | None = None  # the assistant's message that the next item may continue
    for item, origin in zip(found.items, found.origins, strict=True):
        kind = item["type"]
        if not _continues(turn, item):
            turn = None
            if kind == "reasoning" or kind == "function_call" or item.get("role") == "assistant":
                turn = {"role": "assistant", "content": None}
                result.add(turn, origin)

        if turn is not None:
            _extend(turn, item)
            calls |= {item["call_id"]} if kind == "function_call" else set()
        elif kind == "function_call_output":
            if item["call_id"] not in calls:
                message = f"no function call with the call_id {item['call_id'][:80]!r} comes before this output"
                raise RequestError(message, param=f"{origin}.call_id")
            result.add({"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}, origin)
        else:
            result.add({"role": item["role"], "content": _text(item["content"])}, origin)

    for added in result.messages:
        if added["role"] == "assistant" and added["content"] is None and not added.get("tool_calls"):
            added["content"] = ""  # reasoning without an answer
    return result


def _continues(turn: JSON | None, item: JSON) -> bool:
    """Return whether an item belongs to the assistant's message before it."""
    if turn is None:
        return False
    match item["type"]:
        case "function_call":
            return True
        case "reasoning":
            return turn["content"] is None and not turn.get("tool_calls")
        case "message":
            return item["role"] == "assistant" and (turn["content"] is None or "tool_calls" in turn)
    return False


def _extend(turn: JSON, item: JSON) -> None:
    """Add an item to the assistant's message."""
    match item["type"]:
        case "reasoning":
            turn["reasoning_content"] = turn.get("reasoning_content", "") + reasoning_text(item)
        case "function_call":
            name = function_name(item.get("namespace"), item["name"])
            function = {"name": name, "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            turn.setdefault("tool_calls", []).append(call)
        case _:
            turn["content"] = (turn["content"] or "") + "".join(map(part_text, item["content"]))


def _text(content: str | Iterable[JSON]) -> str | list[JSON]:
    """Return the content of a message: a text, or several."""
    if isinstance(content, str):
        return content
    texts = [part_text(part) for part in content]
    return [{"type": "text", "text": text} for text in texts] if len(texts) > 1 else "".join(texts)
