"""Finds out how a chat template writes tool calls, by rendering one."""

from __future__ import annotations

import json
import time
from itertools import product
from typing import Any

from llamafw.errors import FAULTS
from llamafw.interfaces import ChatFormat

MAX_SECONDS = 0.1  # processor time after which no further form of a call is tried
ARGUMENTS = {"city": "Oslo", "days": 3}
_QUESTION, _RESULT, _ID = "callprobequestion", "callproberesult", "a1b2c3d4e"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city."},
                "days": {"type": "integer", "description": "How many days."},
            },
            "required": ["city"],
        },
    },
}


def render_call(chat: ChatFormat) -> str:
    """Return how a chat format writes a call of ``get_weather`` with `ARGUMENTS`; empty if it writes none or fails.

    The text may include what introduces and ends the assistant's message.
    """
    deadline = time.thread_time() + MAX_SECONDS
    for arguments, with_result in product((ARGUMENTS, json.dumps(ARGUMENTS)), (True, False)):
        call = {"id": _ID, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": _QUESTION},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        if with_result:
            messages.append({"role": "tool", "tool_call_id": _ID, "name": "get_weather", "content": _RESULT})
        try:
            text = chat.render(messages, add_generation_prompt=False, tools=[_TOOL])
        except FAULTS:  # the template has no tools; if it fails without them too, requests report it
            if time.thread_time() > deadline:
                break
            continue
        written = text.rpartition(_QUESTION)[2].partition(_RESULT)[0]
        if "get_weather" in written and "Oslo" in written:
            return written
    return ""
