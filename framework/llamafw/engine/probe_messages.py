"""Build the messages of the conversations that probe a chat template: marked texts, in the form that it wants.

Independent of how conversations are rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafw.types import ChatCapabilities

Message = Mapping[str, Any]

USER, USER2, ANSWER, ANSWER2 = "probeuser", "probesecond", "probeanswer", "probelater"
SYSTEM, RESULT, RESULT2, REASONING = "probesystem", "proberesult", "probeoutcome", "probereasoning"
TOOL, TOOL2, FIELD, VALUE = "probe_tool", "probe_other", "probefield", "probevalue"
ID, SHORT_ID, ID2, SHORT_ID2 = "call_0123456789abcdef", "abcdefghi", "call_fedcba9876543210", "ihgfedcba"


def message(found: ChatCapabilities, role: str, text: str, **fields: Any) -> Message:
    """Return a message in the form that the template wants."""
    content: Any = [{"type": "text", "text": text}] if role in found.parts_only and text else text
    if not text and "tool_calls" in fields and found.null_content:
        content = None
    return {"role": role, "content": content, **fields}


def call(name: str, id: str, arguments: Any) -> Message:
    """Return a tool call in OpenAI's format."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def arguments_of(found: ChatCapabilities, value: str = VALUE) -> Any:
    """Return arguments of a call in the form that the template wants."""
    return {FIELD: value} if found.object_arguments else f'{{"{FIELD}": "{value}"}}'


def ids_of(found: ChatCapabilities) -> tuple[str, str]:
    """Return the ids of two calls that the template accepts."""
    return (SHORT_ID, SHORT_ID2) if found.short_ids else (ID, ID2)
