"""Check the messages of a conversation and bring them into one form.

Independent of any template: `fit_messages` fits the result to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llamafw import RequestError
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.strict_json import parse_strict

MEDIA = {
    "image_url": "images",
    "input_image": "images",
    "image": "images",
    "input_audio": "audio",
    "input_video": "video",
    "video_url": "video",
    "file": "files",
    "input_file": "files",
}
"""Types of content parts that only a multimodal model can read → what they carry."""

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of content parts that are text → the field that has it."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")  # in the order of preference
KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function")  # the last is OpenAI's older `tool`
READ_FIELDS = ("role", "content", "tool_calls", "function_call")  # fields of messages that are read one by one
RESULT_ROLES = ("tool", "function")
MAY_BE_EMPTY = ("assistant", *RESULT_ROLES)  # roles of messages that may have no content

Clean = Callable[[str], str]
"""Returns a client's text as it may be put into a prompt."""


def plain_messages(messages: Sequence[JSON], clean: Clean = str) -> list[JSON]:
    """Return the messages in one form.

    ``content`` is a text: the texts of several parts are joined by newlines. ``reasoning_content`` has the reasoning of
    an answer, whatever field the client sent it in. The arguments of a call are an object, or a text if they are not a
    JSON object. Every call has an id, and every result the id and the name of its call. Fields that are None are
    removed, because templates test whether a field is defined.

    Parameters
    ----------
    messages : sequence of dict
        The validated messages of a request.
    clean : callable
        Applied to every text of the client.

    Raises
    ------
    RequestError
        A message has no content, or a part that is not text.
    """
    plain = [_plain_message(message, i, clean) for i, message in enumerate(messages)]
    _link_results(plain)
    return plain


def _plain_message(message: JSON, i: int, clean: Clean) -> JSON:
    others = {name: value for name, value in message.items() if value is not None and name not in READ_FIELDS}
    role = message["role"] if message["role"] in KNOWN_ROLES else clean(message["role"])
    plain: JSON = {"role": "tool" if role in RESULT_ROLES else role, **clean_value(others, clean)}

    content, reasoning = message.get("content"), _reasoning_of(plain)
    if isinstance(content, list):
        content, thoughts = _read_parts(content, f"messages.{i}.content")
        reasoning = reasoning or clean(thoughts)
    if not content and message["role"] not in MAY_BE_EMPTY and not isinstance(message.get("content"), str):
        raise RequestError("the message has no content", param=f"messages.{i}.content")
    plain["content"] = clean(content or "")

    for name in REASONING_FIELDS:
        plain.pop(name, None)
    if reasoning and plain["role"] == "assistant":
        plain["reasoning_content"] = reasoning
    if calls := message.get("tool_calls") or _older_calls(message):
        plain["tool_calls"] = [_plain_call(call, clean) for call in calls]
    return plain


def _older_calls(message: JSON) -> list[JSON]:
    """Return the call of a message in OpenAI's older format, if it has one."""
    function = message.get("function_call")
    return [{"function": function}] if function else []


def clean_value(value: Any, clean: Clean) -> Any:
    """Return JSON data with all its texts cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_value(item, clean) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean_value(item, clean) for name, item in value.items()}
    return value


def _reasoning_of(message: JSON) -> str:
    texts = (message.get(name) for name in REASONING_FIELDS)
    return next((text for text in texts if isinstance(text, str) and text), "")


def _read_parts(parts: list[JSON], param: str) -> tuple[str, str]:
    """Return the text and the reasoning in a message's parts."""
    texts, thoughts = [], []
    for j, part in enumerate(parts):
        if part["type"] in ("thinking", "reasoning"):
            thoughts.append(_thinking_text(part, f"{param}.{j}"))
        elif part["type"] != "redacted_thinking":
            texts.append(_part_text(part, f"{param}.{j}"))
    return "\n".join(texts), "\n".join(thoughts)


def _thinking_text(part: JSON, param: str) -> str:
    """Return the text of a part with reasoning: a text, or parts in Mistral's format."""
    value = part.get(part["type"], part.get("text"))
    if isinstance(value, list):
        value = "".join(str(item.get("text", "")) for item in value if isinstance(item, dict))
    if not isinstance(value, str):
        raise RequestError("the part has no text", param=f"{param}.{part['type']}")
    return value


def _part_text(part: JSON, param: str) -> str:
    kind: Any = part["type"]
    if kind in MEDIA:
        raise media_error(kind, MEDIA[kind], param)
    if kind not in TEXT_PARTS:
        message = f"the part type {kind[:40]!r} is not supported; this server's model reads 'text' only"
        raise RequestError(message, param=f"{param}.type")
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise RequestError("the part has no text", param=f"{param}.{TEXT_PARTS[kind]}")
    return text


def media_error(part: str, media: str, param: str) -> RequestError:
    """Return the error about a ``part`` with ``media``, such as images, that only a multimodal model can read."""
    needed = f"{part} needs a multimodal model and a plugin that reads {media}"
    return RequestError(f"{needed}; this server's model reads text only", param=param)


def _plain_call(call: JSON, clean: Clean) -> JSON:
    function = call["function"]
    given = function.get("arguments")
    arguments = {} if given is None or given == "" else read_arguments(given)
    given_fields = {name: value for name, value in call.items() if name != "function" and value is not None}
    function = {**function, "arguments": arguments}
    return {"type": "function", **clean_value({**given_fields, "function": function}, clean)}


def read_arguments(arguments: Any) -> Any:
    """Return the arguments of a call as an object; as the text that they are if they are not a JSON object."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = parse_strict(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _link_results(messages: list[JSON]) -> None:
    """Give ids to calls that have none, and the id and name of its call to each result."""
    waiting: dict[str, str] = {}  # calls without a result so far: id → name
    n_calls = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            call.setdefault("id", f"call{n_calls:05}")
            n_calls += 1
            waiting[call["id"]] = call["function"]["name"]
        if message["role"] == "tool":
            named = (id for id, name in waiting.items() if name == message.get("name"))
            id = message.get("tool_call_id") or next(named, None) or next(iter(waiting), None)
            if id is not None:
                message["tool_call_id"] = id
            if (name := waiting.pop(id or "", None)) is not None:
                message.setdefault("name", name)
