"""A conversation: its messages, its system prompt and its options; as a request, and as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafw.errors import LlamafwError

FORMAT = "llamafw chat"
VERSION = 1


class ConversationError(LlamafwError):
    """A file cannot be read or written, or has no conversation."""


@dataclass(slots=True)
class Conversation:
    """What has been said, and how the next answer is to be generated."""

    model: str | None = None  # the model that requests name; None: the server's
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # request fields
    messages: list[dict[str, Any]] = field(default_factory=list)  # as in the API, without the system prompt

    @property
    def api_messages(self) -> list[dict[str, Any]]:
        """The messages of a request, the system prompt first."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    def body(self, *, progress: bool = False) -> dict[str, Any]:
        """Return the body of a request that asks for an answer, or for the rest of the last one.

        Parameters
        ----------
        progress : bool
            Ask for reports of how much of the prompt has been read.
        """
        body: dict[str, Any] = {**self.options, "messages": self.api_messages, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if self.model:
            body["model"] = self.model
        if progress:
            body["return_progress"] = True
        if self.messages and (last := self.messages[-1])["role"] == "assistant":
            body["continue_final_message"] = "content" if last["content"] else "reasoning_content"
        return body

    def drop_answer(self) -> dict[str, Any] | None:
        """Remove the last message if it is an answer, and return it."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            return self.messages.pop()
        return None

    def save(self, path: Path) -> None:
        """Write a file that `load` can read; replace it only if it is one of these.

        Raises
        ------
        ConversationError
            The file cannot be written, or is another kind of file.
        """
        from llamafw.engine.atomic_files import write_atomically  # a slow import

        data = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "system": self.system,
            "options": self.options,
            "messages": self.messages,
        }
        if path.exists() and not _is_conversation(path):
            raise ConversationError(f"{path} exists and is not a conversation; choose another name")
        text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
        try:
            write_atomically(path, [text.encode("utf-8", "replace")], prefix=".llamafw-")
        except OSError as error:
            raise ConversationError(f"{path} cannot be written: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """Return the conversation in a file; raise ConversationError."""
        data = _read(path)
        if data.get("version") != VERSION:
            raise ConversationError(f"{path} was written by another version of llamafw")
        messages, options = data.get("messages"), data.get("options")
        system, model = data.get("system"), data.get("model")
        is_valid = (
            isinstance(messages, list)
            and all(map(_is_message, messages))
            and isinstance(options, dict)
            and isinstance(system, str)
            and isinstance(model, str | None)
        )
        if not is_valid:
            raise ConversationError(f"{path} is damaged")
        return cls(model, str(system), dict(options or {}), list(messages or []))


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in ("user", "assistant")
        and isinstance(message.get("content"), str)
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        data = None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConversationError(f"{path} is not a conversation of `llamafw chat`")
    return data


def _is_conversation(path: Path) -> bool:
    try:
        return bool(_read(path))
    except ConversationError:
        return False
