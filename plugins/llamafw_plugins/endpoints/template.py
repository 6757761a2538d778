"""POST /apply-template and /v1/chat/completions/input_tokens.

Chat completions use this module to render prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import App, Call, LoadedModel, RequestError
from llamafw_plugins.endpoints.messages import plain_messages
from llamafw_plugins.endpoints.prompts import bos_tokens
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.tools import Tools, read_tools
from llamafw_plugins.endpoints.unsupported import refuse_chat_fields

RESERVED_VARIABLES = ("messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token")


class TemplateEndpoints:
    """The operations `applyTemplate` and `countChatTokens`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def apply(self, call: Call) -> JSON:
        """Return the prompt that the chat template makes of a conversation."""
        body, loaded = call.body, self.app.loaded
        return {"prompt": await asyncio.to_thread(render, body, loaded, read_tools(body, loaded))}

    async def count(self, call: Call) -> JSON:
        """Return the number of tokens of a conversation's prompt, including the server's system prompt."""
        body, loaded = call.body, self.app.loaded
        tokens = await asyncio.to_thread(chat_tokens, body, loaded, read_tools(body, loaded))
        return {"object": "response.input_tokens", "input_tokens": len(self.app.prepare(body, tokens).prompt)}


def render(body: JSON, loaded: LoadedModel, tools: Tools | None) -> str:
    """Return the prompt of a validated chat request.

    Call it on a worker thread: templates may be slow.

    The template renders tools, tool calls and their results. If it does not know tools, they are added to the messages
    as text.

    Raises
    ------
    RequestError
        The request uses an unsupported field or a reserved variable, or the template rejects the conversation.
    """
    refuse_chat_fields(body)
    variables = template_variables(body)
    messages: Sequence[Mapping[str, Any]] = plain_messages(body["messages"], loaded.chat.source)
    if "tools" in loaded.chat.source:
        variables |= {"tools": list(tools.offered)} if tools else {}
    elif loaded.tool_parser is not None:
        messages = loaded.tool_parser.inline(messages, tools.offered if tools else ())

    return loaded.chat.render(messages, add_generation_prompt=ends_with_answer_start(body), **variables)


def template_variables(body: JSON) -> dict[str, Any]:
    """Return the variables that a request sets; RequestError if it sets one that belongs to the server."""
    variables = dict(body.get("chat_template_kwargs") or {})
    for name in variables:
        if name in RESERVED_VARIABLES:
            message = f"the server sets the variable {name}; a request cannot replace it"
            raise RequestError(message, param=f"chat_template_kwargs.{name}")
    return variables


def ends_with_answer_start(body: JSON) -> bool:
    """Return whether a request's prompt ends with the text that introduces the assistant's answer."""
    return body.get("add_generation_prompt") is not False


def count_answer_start(body: JSON, loaded: LoadedModel, tokens: Sequence[int]) -> int | None:
    """Return how many tokens at the end of a prompt introduce the assistant's answer; None if that is not certain.

    The next turn of the conversation may not repeat them, for example because they open a block of thoughts.

    Parameters
    ----------
    body : mapping
        A validated chat request.
    loaded : LoadedModel
        The model.
    tokens : sequence of int
        The tokens of the request's prompt.
    """
    if not ends_with_answer_start(body):
        return None
    message, variables = {"role": "user", "content": "."}, template_variables(body)
    try:
        with_start, without = (
            loaded.chat.render([message], add_generation_prompt=add, **variables) for add in (True, False)
        )
    except RequestError:  # some templates refuse such a short conversation
        return None
    if not with_start.startswith(without):
        return None

    start = loaded.tokenizer.encode(with_start[len(without) :], parse_special=True)
    return len(start) if list(tokens[len(tokens) - len(start) :]) == start else None


def chat_tokens(body: JSON, loaded: LoadedModel, tools: Tools | None) -> tuple[int, ...]:
    """Return the tokens of a conversation's prompt, with BOS if the model expects it, even if the template omits it."""
    tokenizer = loaded.tokenizer
    tokens = tokenizer.encode(render(body, loaded, tools), parse_special=True)
    bos = bos_tokens(tokenizer)
    return (*([] if tokens[:1] == bos else bos), *tokens)
