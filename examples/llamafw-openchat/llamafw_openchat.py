"""The prompt format of OpenChat: each turn names its mode and its speaker, and ends with a token of its own.

Format: https://huggingface.co/openchat/openchat-3.5-0106, whose chat template this follows. It is written in Python
rather than Jinja; either will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ChatContext, ChatFormat, Register, RequestError, hookimpl

requires_api = ">=1.0,<2"
MODES = {"general": "GPT4 Correct", "math": "Math Correct"}
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
END = "<|end_of_turn|>"


class OpenChat:
    """A `llamafw.ChatFormat`; the variable ``mode`` chooses between general and mathematical answers."""

    source = f"{{mode}} {{role}}: {{content}}{END}"  # what GET /props shows

    def __init__(self, context: ChatContext) -> None:
        self.bos = context.bos_token

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the prompt; RequestError for a mode or a role that OpenChat does not know."""
        given = variables.get("mode", "general")
        if given not in MODES:
            raise RequestError(f"the mode is one of {', '.join(MODES)}", param="chat_template_kwargs.mode")
        mode, turns = MODES[given], [self.bos]
        for i, message in enumerate(messages):
            if message["role"] not in ROLES:
                raise RequestError(f"OpenChat has no role {message['role']!r}", param=f"messages.{i}.role")
            turns.append(f"{mode} {ROLES[message['role']]}: {message['content']}{END}")
        return "".join(turns) + (f"{mode} Assistant:" if add_generation_prompt else "")


@hookimpl
def register_chat_formats(register: Register) -> None:
    """Offer the format under its name."""
    register("openchat", make)


def make(context: ChatContext) -> ChatFormat:
    """Return the format for one model."""
    return OpenChat(context)
