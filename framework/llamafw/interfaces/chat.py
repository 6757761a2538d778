"""Protocols for chat formats and tool parsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llamafw.types import ToolCall


class ChatFormat(Protocol):
    """Renders a conversation as a prompt.

    Created once per model; called on worker threads.
    """

    source: str  # text of the template, for GET /props

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the prompt.

        Parameters
        ----------
        messages : sequence of mapping
            The conversation in the format of OpenAI's chat API: ``role``, ``content`` …
        add_generation_prompt : bool
            End with the text that introduces the assistant's answer.
        **variables
            Further template variables: ``tools``, and the request's ``chat_template_kwargs``.

        Raises
        ------
        RequestError
            The template rejected the conversation, failed, took too long or produced too much text.
        """


@dataclass(frozen=True, slots=True)
class ChatContext:
    """The arguments of a `ChatFormatFactory`."""

    bos_token: str = ""  # text of the BOS token
    eos_token: str = ""  # text of the EOS token
    template: str | None = None  # Jinja source, for formats that render templates


ChatFormatFactory = Callable[[ChatContext], ChatFormat]
"""The object that `register_chat_formats` registers for a chat format."""


class ToolParser(Protocol):
    """Finds tool calls in a response as it arrives.

    Created per response; called on the event loop, once per delta.
    """

    def feed(self, text: str) -> tuple[str, Sequence[ToolCall]]:
        """Add ``text``; return the plain text and the complete calls that are now certain."""

    def finish(self) -> tuple[str, Sequence[ToolCall]]:
        """Return the rest of the response, at its end: text and calls held back so far.

        An incomplete call is text.
        """


class ToolParserPlugin(Protocol):
    """One format of tool calls.

    Called on worker threads and on the event loop.

    Tools have OpenAI's format: ``{"type": "function", "function": {"name", "description", "parameters"}}``.
    """

    def matches(self, template: str) -> bool:
        """Return whether models with this chat ``template`` use this format."""

    def create(self) -> ToolParser:
        """Return a parser for one response."""

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar that allows one call of ``tools``, or several if ``parallel``, and nothing else."""

    def inline(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Return ``messages`` with ``tools``, calls and results written as text, for templates without tool support."""
