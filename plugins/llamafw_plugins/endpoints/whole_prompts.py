"""Render a conversation so that nothing of it is missing in the prompt.

Probing finds out what a template does with short conversations; some templates treat a longer one otherwise. A prompt
that lacks a part of the conversation, or that the template refuses, is therefore rendered again from a conversation
that asks less of the template. Reasoning is not looked for: templates drop that of earlier turns on purpose.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from llamafw import ChatCapabilities, RequestError
from llamafw_plugins.endpoints.messages import KNOWN_ROLES
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.special_text import without_markers

MAX_SECONDS = 0.5  # processor time after which no further way is tried
_CALLS_APART = {"text_with_calls": False, "reasoning_with_text": False}
_STRICT_ORDER = {
    "repeated_roles": False,
    "assistant_first": False,
    "user_after_result": False,
    "late_system": False,
}
_NO_SYSTEM = {"system": False, "late_system": False}
_ONE_CALL = {"parallel_calls": False}
_CALLS_AS_TEXT = {"tool_calls": False, "tool_results": False}
_WAYS: tuple[dict[str, bool], ...] = (
    {},
    _CALLS_APART,
    _NO_SYSTEM,
    _CALLS_APART | _STRICT_ORDER,
    _CALLS_APART | _STRICT_ORDER | _NO_SYSTEM,
    _CALLS_APART | _STRICT_ORDER | _NO_SYSTEM | _ONE_CALL,
    _CALLS_AS_TEXT,
    _CALLS_AS_TEXT | _STRICT_ORDER | _NO_SYSTEM,
    _CALLS_AS_TEXT | _STRICT_ORDER | _NO_SYSTEM | {"tools": False},
)
"""What to ask less of a template, in the order in which it is tried."""

Render = Callable[[Sequence[JSON], ChatCapabilities], str]
"""Returns the prompt of a conversation for a template with the given capabilities; RequestError if it is refused."""


def render_whole(messages: Sequence[JSON], tools: Sequence[str], can: ChatCapabilities, render: Render) -> str:
    """Return a prompt that has all texts of a conversation.

    Parameters
    ----------
    messages : sequence of dict
        The result of `plain_messages`.
    tools : sequence of str
        The names of the tools that the prompt describes.
    can : ChatCapabilities
        What probing found out about the template.
    render : callable
        Renders the conversation.

    Raises
    ------
    RequestError
        The template refuses the conversation, or drops a part of it, whatever is tried.
    """
    deadline = time.thread_time() + MAX_SECONDS
    tried: list[ChatCapabilities] = []
    problem: RequestError | None = None
    for way in _WAYS:
        changes: dict[str, Any] = dict(way)
        asked = replace(can, **changes)
        if asked in tried or (problem is not None and time.thread_time() > deadline):
            continue
        tried.append(asked)
        try:
            prompt = render(messages, asked)
            _check_whole(messages, tools, prompt, asked, render)
        except RequestError as error:
            problem = problem or error
            continue
        return prompt
    assert problem is not None  # the first way was tried
    raise problem


def _check_whole(
    messages: Sequence[JSON], tools: Sequence[str], prompt: str, can: ChatCapabilities, render: Render
) -> None:
    """Raise RequestError if a prompt lacks a part of the conversation."""
    if any(name not in prompt for name in tools):
        raise RequestError("the chat template drops tools; --chat-template sets another", param="tools")
    missing = None if _has_in_order(messages, prompt) else _first_missing(messages, prompt, can, render)
    if missing is None:
        return

    role = messages[missing]["role"]
    if role not in KNOWN_ROLES:
        message = f"the chat template has no role {without_markers(role)[:40]!r}"
        raise RequestError(message, param=f"messages.{missing}.role")
    what = "this message, or a part of it" if can.turns else "earlier messages"
    message = f"the chat template drops {what}; --chat-template sets another"
    raise RequestError(message, param=f"messages.{missing}")


def _has_in_order(messages: Sequence[JSON], prompt: str) -> bool:
    """Return whether all texts are in the prompt, in the order of the conversation."""
    at = 0
    for text in (text for message in messages for text in _texts(message)):
        found = prompt.find(text, at)
        if found < 0:
            found, text = prompt.find(_escaped(text), at), _escaped(text)
        if found < 0:
            return False
        at = found + len(text)
    return True


def _first_missing(messages: Sequence[JSON], prompt: str, can: ChatCapabilities, render: Render) -> int | None:
    """Return the index of the first message of which the template drops a text; None if it drops none.

    Templates may write texts in another order, or change them. Whether they appear at all is seen in a conversation of
    the same form, with an unlike word in place of each text.
    """
    marked = [_marked(message, f"xq{i}n") for i, message in enumerate(messages)]
    try:
        shown = render(marked, can).lower()
    except RequestError:  # the template reads the texts
        shown = ""
    for i, (message, words) in enumerate(zip(messages, marked, strict=True)):
        for text, word in zip(_texts(message), _texts(words), strict=True):
            if word not in shown and not _shows(prompt, text, messages):
                return i
    return None


def _shows(prompt: str, text: str, messages: Sequence[JSON]) -> bool:
    """Return whether a prompt has a text as often as the conversation."""
    n = sum(other.count(text) for message in messages for other in _texts(message))
    return prompt.count(text) >= n or prompt.count(_escaped(text)) >= n


def _texts(message: JSON) -> Iterator[str]:
    """Yield the texts of a message that must appear: its content, and the texts in the arguments of its calls."""
    if text := message["content"].strip():
        yield text
    for call in message.get("tool_calls", ()):
        yield from _leaves(call["function"]["arguments"])


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts in JSON data, without names of fields."""
    if isinstance(value, str):
        if text := value.strip():
            yield text
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)


def _marked(message: JSON, word: str) -> JSON:
    """Return a message with an unlike word in place of each text that `_texts` yields."""
    marked = {**message, "content": f"{word}x" if message["content"].strip() else message["content"]}
    if "tool_calls" in message:
        marked["tool_calls"] = [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": _marked_value(call["function"]["arguments"], f"{word}{i}n"),
                },
            }
            for i, call in enumerate(message["tool_calls"])
        ]
    return marked


def _marked_value(value: Any, word: str) -> Any:
    """Return JSON data with an unlike word in place of each text."""
    if isinstance(value, str):
        return f"{word}x" if value.strip() else value
    if isinstance(value, dict):
        return {name: _marked_value(item, f"{word}{i}n") for i, (name, item) in enumerate(value.items())}
    if isinstance(value, list):
        return [_marked_value(item, f"{word}{i}n") for i, item in enumerate(value)]
    return value


def _escaped(text: str) -> str:
    """Return a text as it is within JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
