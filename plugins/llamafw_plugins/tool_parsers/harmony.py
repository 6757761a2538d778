"""The messages of gpt-oss: reasoning, text and tool calls, each in a channel, with control tokens around them.

Format: https://cookbook.openai.com/articles/openai-harmony. A prompt ends with ``<|start|>assistant``. The channel
``analysis`` is reasoning, ``final`` is text, and a message ``to=functions.name`` is a call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.call_parser import CallParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import json_text
from llamafw_plugins.tool_parsers.json_calls import arguments_rule, literal
from llamafw_plugins.tool_parsers.schemas import terminal_lines, text_before

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
FUNCTIONS = "functions."

_RECIPIENT, _CHANNEL = re.compile(r"(?:^|\s)to=([\w.:-]+)"), re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_MAX_HEADER = 512  # characters


class Harmony(Hermes):
    """The format of gpt-oss.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = (START, CHANNEL, MESSAGE, CONSTRAIN, ENDS[0])
    reads_all = True

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return CHANNEL in template and START in template and MESSAGE in template

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return HarmonyParser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (f"{CHANNEL}commentary to={FUNCTIONS}", f"{START}assistant to={FUNCTIONS}")

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows one call, with reasoning before it, and nothing else.

        The model writes one call per response, because the end of a call ends the response.
        """
        start, channel, message, constrain, end = (context.mark(mark) for mark in self.marks)
        terminals = list[str]()
        calls = []
        for tool in context.tools:
            recipient = literal(f" to={FUNCTIONS}{tool['function']['name']}")
            calls.append(
                f'({start} "assistant" {recipient} {channel} "commentary" (" ")? | '
                f'({start} "assistant")? {channel} "commentary" {recipient} " ") '
                f'({constrain})? "json" {message} {arguments_rule(tool)}'
            )
        text = text_before(context, ENDS[0], terminals)
        return (
            f'start: (({start} "assistant")? {channel} "analysis" {message} {text})? call\n'
            f"call: {' | '.join(calls)}\n{terminal_lines(terminals)}"
        )

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{CHANNEL}commentary to={FUNCTIONS}{name} {CONSTRAIN}json{MESSAGE}{json_text(arguments)}{ENDS[1]}"


class HarmonyParser(CallParser):
    """Reads one response: all its messages, not only calls."""

    openings: ClassVar[tuple[str, ...]] = (START, CHANNEL, *ENDS)
    bare: ClassVar[str] = "t"  # of ``to=functions``: the prompt may have the beginning of the header

    def read_calls(self) -> Waiting[None]:
        """Read one message, or the end of one."""
        cursor = self.cursor
        if (yield from cursor.find(*ENDS)):
            return
        if self.is_bare:
            yield from cursor.skip()
            start = cursor.at
            yield from cursor.expect(f"to={FUNCTIONS}")
            cursor.at = start
        header = yield from self._read_header()
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        name = recipient[1].removeprefix(FUNCTIONS) if recipient else ""
        if recipient and (recipient[1].startswith(FUNCTIONS) or name in self.context.names) and self.context.tools:
            yield from cursor.skip()
            yield from self.read_arguments(name)
            yield from cursor.close(*ENDS)
            return
        if channel is None:
            raise NotACall
        is_reasoning = channel[1] == "analysis" or recipient is not None
        self.begin_text()
        yield from self.read_body(self.add_reasoning if is_reasoning else self.add_text, ENDS, START, CHANNEL)

    def _read_header(self) -> Waiting[str]:
        """Return the text before the content of a message."""
        cursor, start = self.cursor, self.cursor.at
        while (end := cursor.text.find(MESSAGE, start)) < 0:
            header = cursor.text[start:]
            if len(header) > _MAX_HEADER or any(mark in header for mark in ENDS):
                raise NotACall
            yield from cursor.wait()
        cursor.at = end + len(MESSAGE)
        return cursor.text[start:end]

    def _begins_with_trigger(self) -> bool:
        """Return whether a grammar holds for the message."""
        header = self.cursor.text[self._start :].partition(MESSAGE)[0]
        return any(trigger in header for trigger in self._triggers)
