"""Tool calls of Mistral's models: ``[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]``.

Format: https://docs.mistral.ai/guides/tokenization (control tokens of v3). Ids of calls have nine letters and digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import choice
from string import ascii_letters, digits
from typing import Any

from llamafw import ToolParser
from llamafw_plugins.tool_parsers.delimited_calls import DelimitedCallParser, call_rule
from llamafw_plugins.tool_parsers.hermes import Hermes

OPENING = "[TOOL_CALLS]"


class Mistral(Hermes):
    """The Mistral format.

    Implements `llamafw.ToolParserPlugin`.

    For templates without tool support, messages are written as in the Hermes format.
    """

    def matches(self, template: str) -> bool:
        """Return whether models with this chat template use this format."""
        return OPENING in template

    def create(self) -> ToolParser:
        """Return a parser for one response.

        ``[TOOL_CALLS]`` is a control token and may have no text; a response then begins with the array.
        """
        return DelimitedCallParser(OPENING, None, allow_bare=True, make_id=_make_id)

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar that allows one call of ``tools``, or several if ``parallel``, and nothing else."""
        more = '(", " call)*' if parallel else ""
        return f'start: "[" call {more} "]"\ncall: {call_rule(tools)}\n'


def _make_id() -> str:
    return "".join(choice(ascii_letters + digits) for _ in range(9))
