"""Change a conversation so that a chat template writes all of it into the prompt.

The conversation is in the form of `plain_messages`. What a template can do is known from `llamafw.ChatCapabilities`;
what it cannot do is done here, or refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ChatCapabilities, ToolParserPlugin
from llamafw_plugins.endpoints.response_json import JSON

_ALPHABET = string.ascii_letters + string.digits
SEPARATOR = "\n\n"  # between the texts of merged messages


def fit_messages(
    messages: Sequence[JSON],
    can: ChatCapabilities,
    parser: ToolParserPlugin | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[JSON]:
    """Return a conversation in the form that a template can write.

    Parameters
    ----------
    messages : sequence of dict
        The result of `plain_messages`.
    can : ChatCapabilities
        What the template can do.
    parser : ToolParserPlugin, optional
        Writes tools, calls and results as text, for templates that cannot.
    tools : sequence of mapping
        The tools to describe in the conversation, if the template cannot.

    Raises
    ------
    RequestError
        The template has no place for a part of the conversation, and nothing else can be done.
    """
    fitted = [dict(message) for message in messages]
    fitted = _fit_reasoning(fitted, can)
    fitted = _fit_calls(fitted, can)
    fitted = _write_calls_as_text(fitted, can, parser, tools)
    fitted = _fit_system(fitted, can)
    fitted = _fit_order(fitted, can)
    return [_fit_fields(message, can) for message in fitted]


# --- reasoning


def _fit_reasoning(messages: list[JSON], can: ChatCapabilities) -> list[JSON]:
    """Write the reasoning of the current turn into the content if the template has no field for it.

    Reasoning of earlier turns is dropped then, as models that reason expect.
    """
    if can.reasoning_field is not None:
        return messages
    last_user = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    for i, message in enumerate(messages):
        reasoning = message.pop("reasoning_content", "")
        if reasoning and can.reasoning and i > last_user:
            before = f"{can.reasoning.start}\n{reasoning.strip()}\n{can.reasoning.end}"
            message["content"] = f"{before}{SEPARATOR}{message['content']}"
    return messages


# --- calls


def _fit_calls(messages: list[JSON], can: ChatCapabilities) -> list[JSON]:
    """Split messages that have more text or more calls than the template writes."""
    if not can.tool_calls:
        return messages
    fitted: list[JSON] = []
    for i, message in enumerate(messages):
        if "tool_calls" not in message:
            fitted.append(message)
            continue
        if message["content"] and not can.text_with_calls:
            _take_text(message, messages[i + 1 :], fitted, can)
        elif message["content"] and message.get("reasoning_content") and not can.reasoning_with_text:
            message["reasoning_content"] += SEPARATOR + message["content"]
            message["content"] = ""
        fitted.append(message)
    return fitted if can.parallel_calls else _one_call_each(fitted)


def _take_text(message: JSON, following: list[JSON], fitted: list[JSON], can: ChatCapabilities) -> None:
    """Move the text of a message with calls into a message before it, or into the answer that follows its results."""
    text, message["content"] = message["content"], ""
    if not can.repeated_roles:
        if (earlier := _answer_of_turn(fitted)) is not None:
            earlier["content"] = _join(earlier["content"], text)
            return
        for later in following:
            if later["role"] == "user":
                break
            if later["role"] == "assistant" and "tool_calls" not in later:
                later["content"] = _join(text, later["content"])
                return
    fitted.append({"role": "assistant", "content": text})


def _answer_of_turn(messages: list[JSON]) -> JSON | None:
    """Return the last answer without calls after the last user's message."""
    for message in reversed(messages):
        if message["role"] == "user":
            break
        if message["role"] == "assistant" and "tool_calls" not in message:
            return message
    return None


def _one_call_each(messages: list[JSON]) -> list[JSON]:
    """Return the conversation with one call per message, each followed by its result."""
    fitted: list[JSON] = []
    i = 0
    while i < len(messages):
        message = messages[i]
        i += 1
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            fitted.append(message)
            continue
        results = []
        while i < len(messages) and messages[i]["role"] == "tool":
            results.append(messages[i])
            i += 1

        first = message
        for call in calls:
            fitted.append({**first, "tool_calls": [call]})
            fitted += [result for result in results if result.get("tool_call_id") == call["id"]]
            first = {"role": "assistant", "content": ""}
        ids = {call["id"] for call in calls}
        fitted += [result for result in results if result.get("tool_call_id") not in ids]
    return fitted


def _write_calls_as_text(
    messages: list[JSON],
    can: ChatCapabilities,
    parser: ToolParserPlugin | None,
    tools: Sequence[Mapping[str, Any]],
) -> list[JSON]:
    """Write what the template does not write of tools, calls and results as text, in the format of the tool parser."""
    if parser is None:
        return messages
    fitted: list[JSON] = []
    for message in messages:
        unwritten = (message.get("tool_calls") and not can.tool_calls) or (
            message["role"] == "tool" and not can.tool_results
        )
        fitted += [dict(item) for item in parser.inline([message], ())] if unwritten else [message]
    if tools and not can.tools:
        fitted = [dict(item) for item in _with_tools(fitted, parser, tools)]
    return fitted


def _with_tools(
    messages: list[JSON], parser: ToolParserPlugin, tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the conversation with a description of the tools in its first system message."""
    head = messages[:1] if messages and messages[0]["role"] in ("system", "developer") else []
    role = head[0]["role"] if head else "system"
    described = parser.inline([{**message, "role": "system"} for message in head], tools)
    return [*({**message, "role": role} for message in described), *messages[len(head) :]]


# --- roles and their order


def _fit_system(messages: list[JSON], can: ChatCapabilities) -> list[JSON]:
    """Move system messages to where the template accepts them."""
    for message in messages:
        if message["role"] == "developer" and not can.developer:
            message["role"] = "system"
    if all(map(_is_system, messages)) and not (can.system and can.only_system):
        return [{**message, "role": "user"} for message in messages]
    if can.system and can.late_system:
        return messages

    n_first = next((i for i, message in enumerate(messages) if not _is_system(message)), len(messages))
    fitted: list[JSON] = []
    if can.system and n_first:
        text = SEPARATOR.join(message["content"] for message in messages[:n_first])
        fitted.append({**messages[0], "content": text})
        messages = messages[n_first:]

    waiting: list[str] = []  # texts for the next user message
    for message in messages:
        if _is_system(message):
            waiting.append(message["content"])
            continue
        if waiting and message["role"] == "user":
            message["content"] = _join(*waiting, message["content"])
        elif waiting:
            _add_to_user(fitted, waiting)
        waiting = []
        fitted.append(message)
    if waiting:
        _add_to_user(fitted, waiting)
    return fitted


def _add_to_user(messages: list[JSON], texts: Sequence[str]) -> None:
    """Add texts to the last message if it is a user's; otherwise as a user's message of their own."""
    if messages and messages[-1]["role"] == "user":
        messages[-1]["content"] = _join(messages[-1]["content"], *texts)
    else:
        messages.append({"role": "user", "content": _join(*texts)})


def _is_system(message: JSON) -> bool:
    return message["role"] in ("system", "developer")


def _fit_order(messages: list[JSON], can: ChatCapabilities) -> list[JSON]:
    """Merge messages of the same role, and fill gaps, for templates in which user and assistant alternate."""
    fitted: list[JSON] = []
    for message in messages:
        before = fitted[-1] if fitted else None
        if message["role"] == "assistant" and not can.assistant_first and (before is None or _is_system(before)):
            fitted.append({"role": "user", "content": ""})
            before = fitted[-1]
        if before is not None and not can.repeated_roles and _may_merge(before, message, can):
            _merge(before, message)
            continue
        if (
            message["role"] == "user"
            and before is not None
            and not can.user_after_result
            and (before["role"] == "tool" or "tool_calls" in before)
            and (can.repeated_roles or _answer_of_turn(fitted) is None)
        ):
            fitted.append({"role": "assistant", "content": ""})
        fitted.append(message)
    return fitted


def _may_merge(before: JSON, message: JSON, can: ChatCapabilities) -> bool:
    if message["role"] != before["role"] or message["role"] not in ("user", "assistant", "system"):
        return False
    n_calls = len(before.get("tool_calls", ())) + len(message.get("tool_calls", ()))
    if n_calls and not can.text_with_calls and (before["content"] or message["content"]):
        return False
    return "tool_calls" not in before and (n_calls < 2 or can.parallel_calls)


def _merge(before: JSON, message: JSON) -> None:
    """Add the second of two messages to the first."""
    text = _join(before["content"], message["content"])
    thoughts = _join(before.get("reasoning_content", ""), message.get("reasoning_content", ""))
    before |= {**message, "content": text}
    if thoughts:
        before["reasoning_content"] = thoughts


def _join(*texts: str) -> str:
    return SEPARATOR.join(text for text in texts if text)


# --- fields


def _fit_fields(message: JSON, can: ChatCapabilities) -> JSON:
    """Return a message with the fields in the form that the template reads."""
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [_fit_call(call, can) for call in calls]
    if can.short_ids and "tool_call_id" in message:
        message["tool_call_id"] = short_id(message["tool_call_id"])

    if message["role"] == "assistant" and not (message["content"] or calls or can.empty_answers):
        message["content"] = " "

    reasoning = message.pop("reasoning_content", "")
    if reasoning and can.reasoning_field == "parts":
        text = [{"type": "text", "text": message["content"]}] if message["content"] else []
        message["content"] = [{"type": "thinking", "thinking": reasoning}, *text]
    elif calls and not message["content"] and can.null_content:
        message["content"] = None
    elif message["role"] in can.parts_only:
        message["content"] = [{"type": "text", "text": message["content"]}]
    if reasoning and can.reasoning_field not in (None, "parts"):
        message[str(can.reasoning_field)] = reasoning
    return message


def _fit_call(call: JSON, can: ChatCapabilities) -> JSON:
    arguments = call["function"]["arguments"]
    if isinstance(arguments, str):  # not a JSON object
        arguments = arguments if can.text_arguments or not can.object_arguments else {"arguments": arguments}
    elif not can.object_arguments:
        arguments = json.dumps(arguments, ensure_ascii=False)
    id = short_id(call["id"]) if can.short_ids else call["id"]
    return {**call, "id": id, "function": {**call["function"], "arguments": arguments}}


def short_id(id: str) -> str:
    """Return an id of nine letters and digits: the id itself if it is one, otherwise always the same one for it."""
    if len(id) == 9 and id.isascii() and id.isalnum():
        return id
    number = int.from_bytes(hashlib.sha256(id.encode("utf-8", "replace")).digest()[:8], "big")
    letters = []
    for _ in range(9):
        number, i = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[i])
    return "".join(letters)
