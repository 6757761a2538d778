"""Tool calls of older models of Mistral: ``[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]``.

Format: https://docs.mistral.ai/guides/tokenization (control tokens of v3). Ids of calls have nine letters and digits.
"""

from __future__ import annotations

from secrets import choice
from string import ascii_letters, digits
from typing import ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.json_calls import JsonCallParser
from llamafw_plugins.tool_parsers.json_lists import JsonList

OPENING, ARGUMENTS, ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


class Mistral(JsonList):
    """The older format of Mistral.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening = OPENING
    closing = ""
    marks = (OPENING, ARGUMENTS, ID)

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return OPENING in (call or template) and ARGUMENTS not in (call or template)

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response, which reads both formats of Mistral."""
        return MistralParser(context, self.triggers(context))


class MistralParser(JsonCallParser):
    """Reads one response."""

    openings: ClassVar[tuple[str, ...]] = (OPENING,)
    bare: ClassVar[str] = "["

    def make_id(self) -> str:
        """Return an id as Mistral's chat templates want it."""
        return "".join(choice(ascii_letters + digits) for _ in range(9))

    def read_calls(self) -> Waiting[None]:
        """Read an array of calls, or one call with a name and arguments."""
        cursor, is_bare = self.cursor, self.is_bare
        yield from cursor.skip()
        yield from cursor.find(OPENING)
        yield from cursor.skip()
        if (yield from cursor.peek()) in "[{" or is_bare:
            yield from self.read_objects()
            return

        name = yield from cursor.name()
        mark = yield from cursor.expect(ID, ARGUMENTS, "{")
        id = ""
        if mark == ID:
            id = yield from cursor.name()
            yield from cursor.expect(ARGUMENTS)
        elif mark == "{":
            cursor.at -= 1
        yield from cursor.skip()
        if not name:
            raise NotACall
        yield from self.read_arguments(name, id)
