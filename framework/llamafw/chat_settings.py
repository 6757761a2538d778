"""Define the settings of chats: templates, reasoning and tools.

Part of the table in `settings`. Independent of any template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from llamafw.options import option, parse_on_off_auto
from llamafw.speculation_settings import SpeculationSettings

CHAT = "chats"


def parse_json_object(text: str) -> Mapping[str, Any]:
    """Return the members of a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return MappingProxyType(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings(SpeculationSettings):
    """The settings of one server's chats, fixed at start-up."""

    # fmt: off
    chat_template: str | None = option(None, "--chat-template", "--chat-template-file", group=CHAT, type=str, env="LLAMA_ARG_CHAT_TEMPLATE", other_env=("LLAMA_ARG_CHAT_TEMPLATE_FILE",), metavar="NAME|TEXT|FILE",
        help="chat template: the name of a built-in or plugin format, a Jinja template, or a file with one (default: from the model)")
    chat_template_kwargs: Mapping[str, Any] | None = option(None, "--chat-template-kwargs", group=CHAT, type=str, env="LLAMA_ARG_CHAT_TEMPLATE_KWARGS", metavar="JSON", parse=parse_json_object,
        help='variables of the chat template, as a JSON object such as {"enable_thinking": false}; a request can replace them (default: none)')
    jinja: bool = option(True, "--jinja", group=CHAT, type=bool, env="LLAMA_ARG_JINJA", off_flags=("--no-jinja",),
        help="accepted for compatibility: chat templates are always rendered with Jinja, and --no-jinja has no effect")
    escape_special: bool = option(True, "--escape-special", group=CHAT, type=bool, env="LLAMAFW_ESCAPE_SPECIAL", off_flags=("--no-escape-special",),
        help="read control tokens such as <|im_end|> in the messages of a chat as plain text; with --no-escape-special, clients can write them")
    prefill_assistant: bool = option(True, "--prefill-assistant", group=CHAT, type=bool, env="LLAMA_ARG_PREFILL_ASSISTANT", off_flags=("--no-prefill-assistant",), off_env="LLAMA_ARG_NO_PREFILL_ASSISTANT",
        help="continue the last message of a chat if it is an assistant's; with --no-prefill-assistant, a new one is generated")
    reasoning: bool | None = option(None, "-rea", "--reasoning", group=CHAT, type=str, env="LLAMA_ARG_REASONING", metavar="on|off|auto", parse=parse_on_off_auto,
        help="whether the model thinks, if its chat template has a switch for that; a request can decide otherwise (default: auto, the default of the chat template)")
    reasoning_format: str = option("auto", "--reasoning-format", group=CHAT, type=str, env="LLAMA_ARG_THINK", metavar="FORMAT", choices=("auto", "none", "deepseek", "deepseek-legacy"),
        help="where the reasoning in an answer goes; none: it stays in content, deepseek or auto: into reasoning_content, deepseek-legacy: into both")
    reasoning_effort: str | None = option(None, "--reasoning-effort", group=CHAT, type=str, env="LLAMA_ARG_REASONING_EFFORT", metavar="LEVEL",
        help="variable reasoning_effort of the chat template: minimal, low, medium, high or another level that the template knows; default: not set (default: default)")
    reasoning_budget: int = option(-1, "--reasoning-budget", group=CHAT, type=int, env="LLAMA_ARG_THINK_BUDGET", metavar="N", low=-1, high=2**31 - 1,
        help="maximum number of tokens of reasoning, after which the end of the reasoning is forced; 0: no reasoning, -1: no limit")
    reasoning_budget_message: str = option("", "--reasoning-budget-message", group=CHAT, type=str, env="LLAMA_ARG_THINK_BUDGET_MESSAGE", metavar="TEXT",
        help="text that ends the reasoning if --reasoning-budget does, before the end tag (default: none)")
    tool_parser: str | None = option(None, "--tool-parser", group=CHAT, type=str, env="LLAMAFW_TOOL_PARSER", metavar="NAME",
        help="parser for the tool calls that the model writes (default: by the chat template)")
    # fmt: on
