"""Protocols for chat formats and tool parsers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llamafw.types import AnswerDelta


class ChatFormat(Protocol):
    """Renders a conversation as a prompt.

    Created once per model; called on the loading thread, to find what the template supports, and on worker threads.
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


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The tools that a request offers, and what is known about calls of them.

    Tools have OpenAI's format: ``{"type": "function", "function": {"name", "description", "parameters"}}``.
    """

    tools: Sequence[Mapping[str, Any]] = ()  # the tools that may be called
    parallel: bool = True  # a response may have several calls
    required: bool = False  # a response is a call
    enforced: bool = False  # the format's grammar holds for all calls: a call that has begun becomes a valid one
    may_be_json: bool = False  # the client asked for JSON, so JSON that no string of the format opens is not a call
    control_tokens: Mapping[str, int] = field(default_factory=dict)  # the format's ``marks`` that are control tokens

    @property
    def names(self) -> frozenset[str]:
        """The names of the tools."""
        return frozenset(tool["function"]["name"] for tool in self.tools)

    def mark(self, text: str) -> str:
        """Return a Lark expression for the string ``text``: its token if it is a control token, or its characters."""
        token = self.control_tokens.get(text)
        return json.dumps(text, ensure_ascii=False) if token is None else f"<[{token}]>"


class ToolParser(Protocol):
    """Separates tool calls from the text of a response, as it arrives.

    Created per response; called on the event loop, once per delta.

    The pieces of a call begin with its name; the arguments of all pieces together are a JSON object. If the context
    says that calls are ``enforced``, pieces may be returned as they arrive; otherwise only when the whole call is known
    to be one. What is not a call is text, unchanged, but for white space next to calls.
    """

    def feed(self, text: str) -> AnswerDelta:
        """Add ``text``; return the text and the pieces of calls that are now certain."""

    def finish(self, *, cut: bool = False) -> AnswerDelta:
        """Return what was held back, at the end of the response.

        Parameters
        ----------
        cut : bool
            The response ended at a limit. A call that had begun is dropped, because it is neither whole nor text;
            otherwise it is text. Calls that only lack their end are whole.
        """


class ToolParserPlugin(Protocol):
    """One format of tool calls.

    Called on worker threads and on the event loop.
    """

    marks: Sequence[str]  # strings of the format that may be control tokens: their text becomes part of responses
    reads_all: bool  # responses without tools are read too, because the format has marks around all texts

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with a chat template use this format.

        Parameters
        ----------
        template : str
            The source of the template.
        call : str
            What the template writes for ``get_weather`` called with ``{"city": "Oslo", "days": 3}``; empty if it
            writes nothing or fails.
        """

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response to a request with the tools of ``context``."""

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls of the tools of ``context``: from there on, `grammar` is enforced."""

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar whose rule ``start`` allows one call, or several if ``context.parallel``, and no text.

        Raises
        ------
        RequestError
            The format cannot express the calls of a tool.
        """

    def inline(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Return ``messages`` with ``tools``, calls and results written as text, for templates without tool support."""
