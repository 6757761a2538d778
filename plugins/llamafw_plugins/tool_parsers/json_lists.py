"""A kind of tool call format: a JSON array of calls between two delimiters, or after one.

Independent of the delimiters of any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.cursor import Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.inline import write_object
from llamafw_plugins.tool_parsers.json_calls import JsonCallParser, literal, object_rule, repeat


class JsonList(Hermes):
    """A format with a JSON array of calls.

    Implements `llamafw.ToolParserPlugin`.

    Attributes
    ----------
    opening, closing : str
        The delimiters; ``closing`` may be empty.
    """

    opening: ClassVar[str]
    closing: ClassVar[str] = ""
    bare: ClassVar[str] = ""  # the character that begins calls if the opening is a control token that is not shown
    space: ClassVar[str] = ""  # between the opening and the array

    @property
    def marks(self) -> tuple[str, ...]:  # type: ignore[override]  # depends on the attributes of the subclass
        """The strings that may be control tokens."""
        return tuple(filter(None, (self.opening, self.closing)))

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return self.opening in (call or template)

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        members = {"openings": (self.opening,), "closing": self.closing, "bare": self.bare}
        kind = type("JsonListParser", (JsonListParser,), members)
        parser: ToolParser = kind(context, self.triggers(context))
        return parser

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (self.opening,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        end = f" {context.mark(self.closing)}" if self.closing else ""
        beginning = f"{context.mark(self.opening)} {literal(self.space + '[')}"
        return f'start: {beginning} {repeat(context, "call", ", ")} "]"{end}\ncall: {self.call_rule(context)}\n'

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{self.opening}{self.space}[{self.write_item(name, arguments)}]{self.closing}"

    def write_item(self, name: str, arguments: Any) -> str:
        """Return the text of one call in the array."""
        return write_object(name, arguments)

    def call_rule(self, context: ToolContext) -> str:
        """Return the Lark expression of one call."""
        return object_rule(context.tools)


class JsonListParser(JsonCallParser):
    """Reads one response."""

    closing: ClassVar[str]

    def read_calls(self) -> Waiting[None]:
        """Read an array of calls."""
        yield from self.cursor.skip()
        yield from self.cursor.find(*self.openings)
        yield from self.cursor.skip()
        yield from self.read_objects()
        if self.closing:
            yield from self.cursor.close(self.closing)
