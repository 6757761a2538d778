"""Calls as ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen and many others.

Format: https://github.com/NousResearch/Hermes-Function-Calling, and the model cards of Hermes 2 Pro and Qwen 2.5.
It is also what we ask models for whose chat template knows no tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ToolParser
from llamafw_plugins.tool_parsers.marked import MarkedParser, calls_of

OPENING, CLOSING = "<tool_call>", "</tool_call>"

Message = Mapping[str, Any]


class Hermes:
    """A `llamafw.ToolParserPlugin`."""

    def matches(self, template: str) -> bool:
        """Return whether the template writes calls this way."""
        return OPENING in template

    def create(self) -> ToolParser:
        """Return a parser for one answer."""
        return MarkedParser(OPENING, CLOSING)

    def grammar(self, tools: Sequence[Message], *, parallel: bool) -> str:
        """Return a Lark grammar of answers that are calls and nothing else."""
        more = '("\\n" call)*' if parallel else ""
        return f'start: call {more}\ncall: "{OPENING}\\n" {calls_of(tools)} "\\n{CLOSING}"\n'

    def inline(self, messages: Sequence[Message], tools: Sequence[Message]) -> list[Message]:
        """Write tools, calls and results into the text of messages, for a template that knows none of them."""
        plain = [_inlined(message) for message in messages]
        if tools:
            text = instructions(tools)
            if plain and plain[0]["role"] == "system":
                plain[0] = {**plain[0], "content": f"{plain[0]['content']}\n\n{text}"}
            else:
                plain.insert(0, {"role": "system", "content": text})
        return plain


def instructions(tools: Sequence[Message]) -> str:
    """Return what the system message says of the tools."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions, described by JSON Schema, one per line:\n{listed}\n\n"
        f"To call one, answer with its name and arguments as JSON between {OPENING} and {CLOSING}:\n"
        f'{OPENING}\n{{"name": "function", "arguments": {{"parameter": "value"}}}}\n{CLOSING}'
    )


def _inlined(message: Message) -> Message:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [
        f"{OPENING}\n{json.dumps({key: call['function'][key] for key in ('name', 'arguments')}, ensure_ascii=False)}\n"
        f"{CLOSING}"
        for call in calls
    ]
    return {"role": message["role"], "content": "\n".join([content, *written] if content else written)}
