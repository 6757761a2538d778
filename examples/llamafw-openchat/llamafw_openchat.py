"""Render chats in the prompt format of OpenChat models.

Each turn starts with its mode and its role and ends with a special token. The format follows the chat template of
https://huggingface.co/openchat/openchat-3.5-0106. It is written in Python here; a Jinja template would work as well.
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
    """A `llamafw.ChatFormat` with the variable ``mode`` for general or mathematical answers."""

    source = f"{{mode}} {{role}}: {{content}}{END}"  # shown by GET /props

    def __init__(self, context: ChatContext) -> None:
        self.bos = context.bos_token

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the prompt.

        Raises
        ------
        RequestError
            If OpenChat does not have the mode or a message's role.
        """
        name = variables.get("mode", "general")
        if name not in MODES:
            raise RequestError(f"mode must be one of {', '.join(MODES)}", param="chat_template_kwargs.mode")

        mode, turns = MODES[name], [self.bos]
        for i, message in enumerate(messages):
            if message["role"] not in ROLES:
                raise RequestError(f"OpenChat does not have the role {message['role']!r}", param=f"messages.{i}.role")
            turns.append(f"{mode} {ROLES[message['role']]}: {message['content']}{END}")

        return "".join(turns) + (f"{mode} Assistant:" if add_generation_prompt else "")


@hookimpl
def register_chat_formats(register: Register) -> None:
    """Register the format ``openchat``."""
    register("openchat", make_format)


def make_format(context: ChatContext) -> ChatFormat:
    """Return the format for a model."""
    return OpenChat(context)
