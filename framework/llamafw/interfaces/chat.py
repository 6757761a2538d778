"""Protocols for chat formats and tool parsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llamafw.types import ToolCall


class ChatFormat(Protocol):
    """Writes a conversation as a prompt. Made once per model; called on worker threads."""

    source: str  # the template's text, for /props

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the prompt.

        Parameters
        ----------
        messages : sequence of mapping
            The conversation, as OpenAI's chat API has it: ``role``, ``content`` …
        add_generation_prompt : bool
            End with the words that an answer begins after.
        **variables
            What else the template may use: ``tools``, and what a request gives as ``chat_template_kwargs``.

        Raises
        ------
        RequestError
            The template refused the conversation, failed, took too long or wrote too much.
        """


@dataclass(frozen=True, slots=True)
class ChatContext:
    """What a chat format is made from."""

    bos_token: str = ""  # the text of BOS
    eos_token: str = ""  # the text of EOS
    template: str | None = None  # for formats that are a template


ChatFormatFactory = Callable[[ChatContext], ChatFormat]
"""What is registered as a chat format."""


class ToolParser(Protocol):
    """Finds calls of tools in one answer's text as it arrives. Made per answer; called on the event loop, per delta."""

    def feed(self, text: str) -> tuple[str, Sequence[ToolCall]]:
        """Take in more ``text``; return the plain text and the whole calls that are now certain."""

    def finish(self) -> tuple[str, Sequence[ToolCall]]:
        """Return what was held back: the answer has ended. What is no call after all is text."""


class ToolParserPlugin(Protocol):
    """What is registered as a tool parser: one way in which models write calls. On worker threads and the event loop.

    Tools are as OpenAI describes them: ``{"type": "function", "function": {"name", "description", "parameters"}}``.
    """

    def matches(self, template: str) -> bool:
        """Return whether models with this chat ``template`` write calls this way."""

    def create(self) -> ToolParser:
        """Return a parser for one answer."""

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar of answers that are a call of ``tools``, several if ``parallel``, and nothing else."""

    def inline(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Return ``messages`` with ``tools``, calls and results as text, for a template that knows none of them."""
