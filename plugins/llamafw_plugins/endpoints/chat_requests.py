"""Turn a conversation into generation requests.

All chat APIs use this module. It is independent of the format of their responses.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from llamafw import (
    App,
    GenerateRequest,
    Reasoning,
    RequestError,
    Tokenizer,
    ToolContext,
    ToolParserPlugin,
    visible_tokens,
)
from llamafw_plugins.endpoints.answers import AnswerDelta, AnswerReader
from llamafw_plugins.endpoints.choices import check_n_generations, repeat_requests
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.special_text import without_markers
from llamafw_plugins.endpoints.template import ChatPrompt, chat_tokens, count_answer_start, render
from llamafw_plugins.endpoints.tools import Tools, constrain_calls, control_tokens, read_tools


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation, ready for the engine."""

    requests: Sequence[GenerateRequest]  # one per choice, all with the same prompt
    tools: Tools | None  # the tools that the model may call
    reasoning_format: str = "auto"  # where the reasoning in an answer goes
    before: AnswerDelta = AnswerDelta()  # what every answer begins with, before the model's own text
    parser: ToolParserPlugin | None = None  # reads answers if no tools are offered, for formats that need it

    def reader(self) -> AnswerReader:
        """Return what reads the answer of one choice."""
        parser = None if self.parser is None else self.parser.create(ToolContext())
        return AnswerReader(self.tools, self.requests[0].reasoning, self.reasoning_format, self.before, parser)


@contextmanager
def errors_about_request(
    locate: Callable[[str], str], renamed: Sequence[tuple[re.Pattern[str], str]]
) -> Iterator[None]:
    """Make errors about the body of a chat completion errors about the request that it was made from.

    Parameters
    ----------
    locate : callable
        Returns the field of the request for the path of a message, or the path itself.
    renamed : sequence of (pattern, str)
        Paths of other fields, as regular expressions → those in the request. Messages are changed in the same way.
    """
    try:
        yield
    except RequestError as error:
        if error.param is not None:
            error.param = rename(locate(error.param), renamed)
        error.message = rename(error.message, renamed)
        raise


def rename(text: str, renamed: Sequence[tuple[re.Pattern[str], str]]) -> str:
    """Return a text after all replacements."""
    for pattern, replacement in renamed:
        text = pattern.sub(replacement, text)
    return text


async def prepare_chat(app: App, body: JSON) -> ChatRequest:
    """Return the requests for a conversation in the format of OpenAI's chat completions.

    Parameters
    ----------
    app : App
        The server.
    body : dict
        A body that is valid for `/v1/chat/completions`. Other APIs convert theirs to this format.

    Raises
    ------
    RequestError
        A field has a value that cannot be used. ``param`` names the field of ``body``.
    """
    n = int(body.get("n") or 1)
    check_n_generations(body, n)

    tools = read_tools(body, app.loaded)
    prompt, tokens, n_answer_start = await asyncio.to_thread(_read_messages, app, body, tools)
    request = replace(with_logprobs(app.prepare(body, tokens), body), n_answer_start=n_answer_start)
    if prompt.reasoning is not None:
        request = _with_reasoning(request, prompt.reasoning, app.loaded.tokenizer, has_tools=tools is not None)
    request, tools = await asyncio.to_thread(constrain_calls, request, tools, app.loaded.tokenizer)
    parser = app.loaded.tool_parser if tools is None else None
    if parser is not None and parser.reads_all:
        marks = control_tokens(parser.marks, app.loaded.tokenizer)
        request = replace(request, visible=request.visible | frozenset(marks.values()))
    else:
        parser = None
    return ChatRequest(repeat_requests([request], n), tools, prompt.thinking.format, _echo(body, prompt), parser)


def _read_messages(app: App, body: JSON, tools: Tools | None) -> tuple[ChatPrompt, Sequence[int], int | None]:
    """Return the prompt, its tokens, and how many of them introduce the answer."""
    prompt = render(body, app.loaded, app.settings, tools)
    tokens = chat_tokens(prompt, app.loaded)
    return prompt, tokens, count_answer_start(prompt, app.loaded, tokens)


def _with_reasoning(
    request: GenerateRequest, reasoning: Reasoning, tokenizer: Tokenizer, *, has_tools: bool
) -> GenerateRequest:
    """Return a request whose response may begin with reasoning."""
    visible = request.visible | visible_tokens(reasoning.tags, tokenizer)
    if has_tools:  # a call may follow the reasoning, so no answer is introduced
        reasoning = replace(reasoning, tags=replace(reasoning.tags, answer=""))
    return replace(request, reasoning=reasoning, visible=visible)


def _echo(body: JSON, prompt: ChatPrompt) -> AnswerDelta:
    """Return the message that is continued, if the request wants it to be part of the answer."""
    if not body.get("echo") or prompt.continuation is None:
        return AnswerDelta()
    message = prompt.continuation.message
    reasoning, text = message.get("reasoning_content", ""), message["content"]
    return AnswerDelta(without_markers(reasoning), without_markers(text))


def with_logprobs(request: GenerateRequest, body: JSON) -> GenerateRequest:
    """Return a request that reports the log-probabilities that the body of a chat asks for.

    Raises
    ------
    RequestError
        The body has ``top_logprobs`` without ``logprobs``.
    """
    if body.get("logprobs"):
        return replace(request, logprobs=True, n_probs=int(body.get("top_logprobs") or 0))
    if body.get("top_logprobs"):
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return request
