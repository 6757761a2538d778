"""Tool calls of Hermes, Qwen and many other models: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

Format: https://github.com/NousResearch/Hermes-Function-Calling, and the model cards of Hermes 2 Pro and Qwen 2.5.
Models whose chat template does not support tools are asked to use it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ToolParser
from llamafw_plugins.tool_parsers.delimited_calls import DelimitedCallParser, call_rule

OPENING, CLOSING = "<tool_call>", "</tool_call>"

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


class Hermes:
    """The Hermes format.

    Implements `llamafw.ToolParserPlugin`.
    """

    def matches(self, template: str) -> bool:
        """Return whether models with this chat template use this format."""
        return OPENING in template

    def create(self) -> ToolParser:
        """Return a parser for one response."""
        return DelimitedCallParser(OPENING, CLOSING)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        """Return a Lark grammar that allows one call of ``tools``, or several if ``parallel``, and nothing else."""
        more = '("\\n" call)*' if parallel else ""
        return f'start: call {more}\ncall: "{OPENING}\\n" {call_rule(tools)} "\\n{CLOSING}"\n'

    def inline(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """Return ``messages`` with tools, calls and results written as text, for templates without tool support."""
        inlined = [_inline_message(message) for message in messages]
        if tools:
            text = instructions(tools)
            if inlined and inlined[0]["role"] == "system":
                inlined[0] = {**inlined[0], "content": f"{inlined[0]['content']}\n\n{text}"}
            else:
                inlined.insert(0, {"role": "system", "content": text})
        return inlined


def instructions(tools: Sequence[Tool]) -> str:
    """Return the part of the system message that describes the tools and the format of calls."""
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions, described by JSON Schema, one per line:\n{functions}\n\n"
        f"To call one, answer with its name and arguments as JSON between {OPENING} and {CLOSING}:\n"
        f'{OPENING}\n{{"name": "function", "arguments": {{"parameter": "value"}}}}\n{CLOSING}'
    )


def _inline_message(message: Message) -> Message:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message

    texts = [
        f"{OPENING}\n{json.dumps({key: call['function'][key] for key in ('name', 'arguments')}, ensure_ascii=False)}\n"
        f"{CLOSING}"
        for call in calls
    ]
    return {"role": message["role"], "content": "\n".join([content, *texts] if content else texts)}
