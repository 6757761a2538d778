"""The messages of Solar Open: reasoning, text and tool calls, each after a control token of its own.

Format: the chat template of https://huggingface.co/upstage/Solar-Open-100B. A prompt ends with ``<|begin|>assistant``,
and ``<|think|>``, ``<|content|>`` or ``<|tool_calls|>`` follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import choice
from string import ascii_lowercase, digits
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.call_parser import CallParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import json_text
from llamafw_plugins.tool_parsers.json_calls import arguments_rule, literal, repeat
from llamafw_plugins.tool_parsers.schemas import terminal_lines, text_before

BEGIN, THINK, TEXT, CALLS = "<|begin|>", "<|think|>", "<|content|>", "<|tool_calls|>"
CALL, NAME, ARGUMENTS, CALL_END = "<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>", "<|tool_call:end|>"
END, CALLS_END, FLUSH = "<|end|>", "<|calls|>", "<|flush|>"
ENDS = (END, CALLS_END, FLUSH)
ROLE = "assistant"


class SolarOpen(Hermes):
    """The format of Solar Open.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = (BEGIN, THINK, TEXT, CALLS, CALL, NAME, ARGUMENTS, CALL_END, END)
    reads_all = True

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return CALL in (call or template) and ARGUMENTS in (call or template)

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return SolarParser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (CALLS,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls, with reasoning before them, and nothing else."""
        begin, think, calls, call, name, arguments, call_end = (
            context.mark(mark) for mark in (BEGIN, THINK, CALLS, CALL, NAME, ARGUMENTS, CALL_END)
        )
        terminals = list[str]()
        tools = " | ".join(
            f"{literal(tool['function']['name'])} {arguments} {arguments_rule(tool)}" for tool in context.tools
        )
        again = f"({begin} {literal(ROLE)})?"
        reasoning = f"({again} {think} {text_before(context, END, terminals)})?"
        return (
            f"start: {reasoning} {again} {calls} {repeat(context, 'call')}\n"
            f"call: {call} /[a-z0-9]{{1,16}}/ {name} ({tools}) {call_end}\n{terminal_lines(terminals)}"
        )

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{CALLS}{CALL}0{NAME}{name}{ARGUMENTS}{json_text(arguments)}{CALL_END}{CALLS_END}"


class SolarParser(CallParser):
    """Reads one response: all its messages, not only calls."""

    openings: ClassVar[tuple[str, ...]] = (BEGIN, THINK, TEXT, CALLS, *ENDS)

    def make_id(self) -> str:
        """Return an id as the chat template wants it."""
        return "".join(choice(ascii_lowercase + digits) for _ in range(10))

    def read_calls(self) -> Waiting[None]:
        """Read one message, or the end of one."""
        cursor = self.cursor
        if (yield from cursor.find(*ENDS)):
            return
        if (yield from cursor.find(BEGIN)):
            yield from cursor.expect(ROLE)
        kind = yield from cursor.expect(THINK, TEXT, CALLS)
        if kind == CALLS:
            yield from self._read_list()
            return
        self.begin_text()
        yield from self.read_body(self.add_reasoning if kind == THINK else self.add_text, ENDS, BEGIN)

    def _read_list(self) -> Waiting[None]:
        """Read calls, and the end of their message."""
        cursor = self.cursor
        if not self.context.tools:
            raise NotACall
        yield from cursor.expect(CALL)
        while True:
            id, _ = yield from cursor.until(NAME)
            name, _ = yield from cursor.until(ARGUMENTS)
            yield from cursor.skip()
            yield from self.read_arguments(name, id)
            yield from cursor.close(CALL_END)
            if not (yield from self._goes_on()):
                break
        yield from cursor.close(*ENDS)

    def _goes_on(self) -> Waiting[bool]:
        """Go past the beginning of another call, if there is one."""
        return bool((yield from self.cursor.find(CALL)))

    def _begins_with_trigger(self) -> bool:
        """Return whether a grammar holds for the message."""
        return bool(self._triggers) and CALLS in self.cursor.text[self._start :]
