"""Tool calls of Mistral's models since 2025: ``[TOOL_CALLS]name[ARGS]{…}``, once for each call.

Format: https://docs.mistral.ai/guides/tokenization (control tokens of v11 and v13). Some models write an id after the
name: ``name[CALL_ID]id[ARGS]``.
"""

from __future__ import annotations

from typing import Any

from llamafw import ToolContext
from llamafw_plugins.tool_parsers.inline import json_text
from llamafw_plugins.tool_parsers.json_calls import arguments_rule, literal, repeat
from llamafw_plugins.tool_parsers.mistral import ARGUMENTS, ID, OPENING, Mistral


class MistralArgs(Mistral):
    """The newer format of Mistral.

    Implements `llamafw.ToolParserPlugin`.
    """

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return OPENING in (call or template) and ARGUMENTS in (call or template)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        id = f"({context.mark(ID)} /[a-zA-Z0-9]{{9}}/)? " if ID in context.control_tokens else ""
        calls = (
            f"{literal(tool['function']['name'])} {id}{context.mark(ARGUMENTS)} {arguments_rule(tool)}"
            for tool in context.tools
        )
        return f"start: {repeat(context, 'call')}\ncall: {context.mark(OPENING)} ({' | '.join(calls)})\n"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{OPENING}{name}{ARGUMENTS}{json_text(arguments)}"
