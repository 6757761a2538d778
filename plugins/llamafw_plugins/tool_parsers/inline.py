"""Writes tools, calls and results as text, for chat templates without tool support.

Every model is asked to use the format that its answer is read in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


def inline_tools(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    write_call: Callable[[str, Any], str],
    example: str,
) -> list[Message]:
    """Return ``messages`` with tools, calls and results written as text.

    Parameters
    ----------
    write_call : callable
        Returns the text of a call, from its name and its arguments.
    example : str
        What a call looks like, for the instructions.
    """
    inlined = [_inline_message(message, write_call) for message in messages]
    if not tools:
        return inlined
    text = _instructions(tools, example)
    if inlined and inlined[0]["role"] == "system":
        inlined[0] = {**inlined[0], "content": f"{inlined[0]['content']}\n\n{text}"}
    else:
        inlined.insert(0, {"role": "system", "content": text})
    return inlined


def _instructions(tools: Sequence[Tool], example: str) -> str:
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions, described by JSON Schema, one per line:\n{functions}\n\n"
        f"To call one, answer with its name and arguments in this form:\n{example}"
    )


def _inline_message(message: Message, write_call: Callable[[str, Any], str]) -> Message:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [write_call(call["function"]["name"], call["function"].get("arguments") or {}) for call in calls]
    return {"role": message["role"], "content": "\n".join([content, *texts] if content else texts)}


def json_text(arguments: Any) -> str:
    """Return the arguments of a call as JSON; as they stand if they are text, because they may be invalid."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def write_object(name: str, arguments: Any, name_key: str = "name", arguments_key: str = "arguments") -> str:
    """Return a call as a JSON object."""
    return f'{{"{name_key}": {json.dumps(name)}, "{arguments_key}": {json_text(arguments)}}}'


def named_arguments(arguments: Any) -> Mapping[str, Any]:
    """Return the arguments of a call by name; text that is not JSON gets the name ``arguments``."""
    return arguments if isinstance(arguments, Mapping) else {"arguments": arguments}
