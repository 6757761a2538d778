"""Tool calls of Functionary: ``<function=name>{…}</function>`` (v3.1), and ``>>>name`` with arguments below (v3.2).

Format: https://github.com/MeetKai/functionary (chat templates). Custom calls of Llama 3.1 look like v3.1. In v3.2, text
goes to the recipient ``all``, and the prompt ends with the first ``>>>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.call_parser import CallParser
from llamafw_plugins.tool_parsers.cursor import Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import json_text
from llamafw_plugins.tool_parsers.json_calls import arguments_rule, literal, repeat

OPENING, CLOSING = "<function=", "</function>"
RECIPIENT, TEXT = ">>>", "all\n"


class FunctionaryV31(Hermes):
    """The format of Functionary v3.1.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ()

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return "<function=get_weather>{" in call

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return FunctionaryV31Parser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (OPENING,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        calls = " | ".join(
            f"{literal(OPENING + tool['function']['name'] + '>')} {arguments_rule(tool)} {literal(CLOSING)}"
            for tool in context.tools
        )
        return f"start: {repeat(context, 'call')}\ncall: {calls}\n"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{OPENING}{name}>{json_text(arguments)}{CLOSING}"


class FunctionaryV31Parser(CallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (OPENING,)

    def read_calls(self) -> Waiting[None]:
        """Read one call."""
        cursor = self.cursor
        yield from cursor.expect(OPENING)
        name = yield from cursor.name()
        yield from cursor.expect(">")
        yield from cursor.skip()
        yield from self.read_arguments(name)
        yield from cursor.close(CLOSING)


class FunctionaryV32(Hermes):
    """The format of Functionary v3.2.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ()
    reads_all = True

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return ">>>get_weather\n" in call

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return FunctionaryV32Parser(context, self.triggers(context))

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response, of which the first has no ``>>>``."""
        return [f"{before}{name}\n{{" for name in sorted(context.names) for before in (RECIPIENT, "")]

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        calls = " | ".join(
            f"{literal(tool['function']['name'] + chr(10))} {arguments_rule(tool)}" for tool in context.tools
        )
        before = "" if context.required else f"({literal(RECIPIENT)})? "
        return f"start: {before}{repeat(context, 'call', RECIPIENT)}\ncall: {calls}\n"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{RECIPIENT}{name}\n{json_text(arguments)}"


class FunctionaryV32Parser(CallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (RECIPIENT,)

    def __init__(self, context: ToolContext, triggers: Sequence[str] = ()) -> None:
        super().__init__(context, triggers)
        self.bare = "".join({name[0] for name in (*context.names, TEXT)})  # type: ignore[misc]  # per response

    def read_calls(self) -> Waiting[None]:
        """Read a recipient, and its arguments if it is a tool."""
        cursor = self.cursor
        yield from cursor.find(RECIPIENT)
        names = [f"{name}\n" for name in sorted(self.context.names, key=len, reverse=True)]
        name = yield from cursor.expect(TEXT, *names)
        if name == TEXT:
            self.begin_text()
            return
        yield from cursor.skip()
        yield from self.read_arguments(name.strip())
