"""Calls as ``[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]``: Mistral's models.

Format: https://docs.mistral.ai/guides/tokenization (control tokens of v3). Ids have nine letters and digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import choice
from string import ascii_letters, digits
from typing import Any

from llamafw import ToolParser
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.marked import MarkedParser, calls_of

OPENING = "[TOOL_CALLS]"


class Mistral(Hermes):
    """A `llamafw.ToolParserPlugin`."""

    def matches(self, template: str) -> bool:
        """Return whether the template writes calls this way."""
        return OPENING in template

    def create(self) -> ToolParser:
        """Return a parser for one answer. The mark is a control token, which may have no text: an array will do."""
        return MarkedParser(OPENING, None, bare=True, make_id=_new_id)

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar of answers that are calls and nothing else."""
        more = '(", " call)*' if parallel else ""
        return f'start: "[" call {more} "]"\ncall: {calls_of(tools)}\n'


def _new_id() -> str:
    return "".join(choice(ascii_letters + digits) for _ in range(9))
