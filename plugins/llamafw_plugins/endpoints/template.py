"""POST /apply-template and /v1/chat/completions/input_tokens.

Chat completions use this module to render prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from llamafw import App, Call, ChatCapabilities, LoadedModel, Reasoning, RequestError, Settings
from llamafw_plugins.endpoints.continuation import Continuation, read_continuation
from llamafw_plugins.endpoints.fit_messages import fit_messages
from llamafw_plugins.endpoints.messages import Clean, clean_value, plain_messages
from llamafw_plugins.endpoints.prompts import bos_tokens
from llamafw_plugins.endpoints.reasoning_reader import split_reasoning
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.special_text import (
    encode_marked,
    mark_control_names,
    whole_characters,
    without_markers,
)
from llamafw_plugins.endpoints.thinking import Thinking, read_thinking
from llamafw_plugins.endpoints.tool_fields import complete_tools
from llamafw_plugins.endpoints.tools import Tools, read_tools
from llamafw_plugins.endpoints.unsupported import refuse_chat_fields
from llamafw_plugins.endpoints.whole_prompts import render_whole


class TemplateEndpoints:
    """The operations `applyTemplate` and `countChatTokens`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def apply(self, call: Call) -> JSON:
        """Return the prompt that the chat template makes of a conversation."""
        return {"prompt": without_markers((await self._render(call.body)).text)}

    async def count(self, call: Call) -> JSON:
        """Return the number of tokens of a conversation's prompt, including the server's system prompt."""
        prompt = await self._render(call.body)
        tokens = await asyncio.to_thread(chat_tokens, prompt, self.app.loaded)
        return {"object": "response.input_tokens", "input_tokens": len(self.app.prepare(call.body, tokens).prompt)}

    async def _render(self, body: JSON) -> ChatPrompt:
        loaded = self.app.loaded
        return await asyncio.to_thread(render, body, loaded, self.app.settings, read_tools(body, loaded))


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The prompt of a conversation, and what is known about the answer."""

    text: str  # with markers, see `special_text`
    thinking: Thinking
    reasoning: Reasoning | None  # how the answer may begin with reasoning; None: it does not
    continuation: Continuation | None  # the answer that the model continues
    start: str | None  # what introduces the answer and may not be repeated in the next turn; None: not certain


def render(body: JSON, loaded: LoadedModel, settings: Settings, tools: Tools | None) -> ChatPrompt:
    """Return the prompt of a validated chat request.

    Call it on a worker thread: templates may be slow.

    Raises
    ------
    RequestError
        The request uses an unsupported field or a reserved variable, or the template rejects the conversation.
    """
    refuse_chat_fields(body)
    can = loaded.chat_capabilities
    thinking = read_thinking(body, settings, can)
    clean = partial(mark_control_names, tokenizer=loaded.tokenizer) if settings.escape_special else whole_characters
    messages = plain_messages(body["messages"], clean)
    _move_reasoning(messages, can, clean)
    renderer = _Renderer(loaded, thinking.variables, clean_value(list(tools.offered), clean) if tools else [])

    continuation = read_continuation(body, messages, can, prefill=settings.prefill_assistant)
    start: str | None = None
    if continuation is None:
        adds_start = body.get("add_generation_prompt") is not False
        text = renderer.render(messages, start=adds_start)
        start = renderer.answer_start() if adds_start else None
    else:
        text = continuation.render(renderer.render)

    return ChatPrompt(text, thinking, _reasoning(text, can, thinking, continuation), continuation, start)


def _move_reasoning(messages: Sequence[JSON], can: ChatCapabilities, clean: Clean) -> None:
    """Move the reasoning of earlier answers from their text to its own field, if the template has one.

    In the text, its tags would not become the model's tokens, and templates would show it in every later turn.
    """
    if can.reasoning_field is None:
        return
    for message in messages[:-1]:  # the last one may be continued
        if message["role"] != "assistant" or "reasoning_content" in message:
            continue
        found = split_reasoning(without_markers(message["content"]), can)
        if found is not None:
            message["content"] = clean(found.rest)
            if found.reasoning:
                message["reasoning_content"] = clean(found.reasoning)


class _Renderer:
    """Renders conversations of one request.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    variables : mapping
        Variables of the template.
    tools : sequence of mapping
        The tools that the request offers.
    """

    def __init__(self, loaded: LoadedModel, variables: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> None:
        self._loaded, self._can, self._tools = loaded, loaded.chat_capabilities, tools
        self._variables = dict(variables)
        if not self._can.no_tools:
            self._variables["tools"] = []

    def render(self, messages: Sequence[JSON], *, start: bool) -> str:
        """Return a conversation's prompt, with the start of an answer if ``start``."""
        names = [tool["function"]["name"] for tool in self._tools]
        return render_whole(messages, names, self._can, partial(self._render_fitted, start=start))

    def _render_fitted(self, messages: Sequence[JSON], can: ChatCapabilities, *, start: bool) -> str:
        """Return the prompt of a conversation that is fitted to a template with the given capabilities."""
        tools, write = self._tools, partial(self._loaded.chat.render, add_generation_prompt=start)
        fitted = fit_messages(messages, can, self._loaded.tool_parser, tools)
        if not tools or not can.tools:
            return write(fitted, **self._variables)

        forms: list[Sequence[Mapping[str, Any]]] = [list(tools)] if can.bare_tools else []
        forms += [complete_tools(tools), complete_tools(tools, simple_types=True)]
        for form in forms[:-1]:
            with suppress(RequestError):  # the template may read what a tool does not have
                return write(fitted, **{**self._variables, "tools": form})
        return write(fitted, **{**self._variables, "tools": forms[-1]})

    def answer_start(self) -> str | None:
        """Return the text that introduces an answer, which the next turn may not repeat; None if it is not certain."""
        message, variables = {"role": "user", "content": "."}, self._variables
        try:
            fitted = fit_messages([message], self._can)
            with_start, without = (
                self._loaded.chat.render(fitted, add_generation_prompt=add, **variables) for add in (True, False)
            )
        except RequestError:  # some templates refuse such a short conversation
            return None
        return with_start[len(without) :] if with_start.startswith(without) else None


def _reasoning(
    prompt: str, can: ChatCapabilities, thinking: Thinking, continuation: Continuation | None
) -> Reasoning | None:
    """Return how the answer to a prompt may begin with reasoning."""
    if can.reasoning is None:
        return None
    ended, begun = prompt.rstrip(), can.reasoning.start.strip()
    opened = ended.endswith(begun)
    if continuation is not None:
        if continuation.is_text and not continuation.opens(can.reasoning):
            return None
        opened = True
    elif ended.endswith(can.reasoning.end.strip()):
        return None
    return Reasoning(can.reasoning, opened, thinking.budget, thinking.message)


def chat_tokens(prompt: ChatPrompt, loaded: LoadedModel) -> tuple[int, ...]:
    """Return the tokens of a conversation's prompt, with BOS if the model expects it, even if the template omits it."""
    tokens, bos = encode_marked(prompt.text, loaded.tokenizer), bos_tokens(loaded.tokenizer)
    return (*([] if tokens[:1] == bos else bos), *tokens)


def count_answer_start(prompt: ChatPrompt, loaded: LoadedModel, tokens: Sequence[int]) -> int | None:
    """Return how many tokens at the end of a prompt introduce the assistant's answer; None if that is not certain.

    The next turn of the conversation may not repeat them, for example because they open a block of thoughts.

    Parameters
    ----------
    prompt : ChatPrompt
        The prompt.
    loaded : LoadedModel
        The model.
    tokens : sequence of int
        The prompt's tokens.
    """
    if prompt.start is None:
        return None
    start = loaded.tokenizer.encode(prompt.start, parse_special=True)
    return len(start) if list(tokens[len(tokens) - len(start) :]) == start else None
