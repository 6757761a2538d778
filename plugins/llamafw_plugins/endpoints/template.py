"""POST /apply-template, and the way from a conversation to a prompt that chat completions share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import App, Call, LoadedModel, RequestError
from llamafw_plugins.endpoints.messages import plain_messages
from llamafw_plugins.endpoints.prompts import bos
from llamafw_plugins.endpoints.shapes import JSON
from llamafw_plugins.endpoints.tools import Tools, read_tools
from llamafw_plugins.endpoints.unsupported import refuse_chat

RESERVED = ("messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token")  # ours to set


class ApplyTemplate:
    """The operations `applyTemplate` and `countChatTokens`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> JSON:
        """Return the prompt that the conversation becomes."""
        body, loaded = call.body, self.app.loaded
        return {"prompt": await asyncio.to_thread(render, body, loaded, read_tools(body, loaded))}

    async def count(self, call: Call) -> JSON:
        """Return the number of tokens that the conversation becomes, those of the system prompt included."""
        body, loaded = call.body, self.app.loaded
        tokens = await asyncio.to_thread(chat_tokens, body, loaded, read_tools(body, loaded))
        return {"object": "response.input_tokens", "input_tokens": len(self.app.prepare(body, tokens).prompt)}


def render(body: JSON, loaded: LoadedModel, tools: Tools | None) -> str:
    """Return the prompt of a validated chat request. Runs on a worker thread, since templates may take their time.

    Tools, calls and their results are the template's to write; if it knows none of them, they become text.

    Raises
    ------
    RequestError
        The request wants what is not supported, or the template refused the conversation.
    """
    refuse_chat(body)
    variables = dict(body.get("chat_template_kwargs") or {})
    for name in variables:
        if name in RESERVED:
            raise RequestError(f"the variable {name} is set by the server", param=f"chat_template_kwargs.{name}")
    messages: Sequence[Mapping[str, Any]] = plain_messages(body["messages"], loaded.chat.source)
    if "tools" in loaded.chat.source:
        variables |= {"tools": list(tools.offered)} if tools else {}
    elif loaded.tool_parser is not None:
        messages = loaded.tool_parser.inline(messages, tools.offered if tools else ())
    add = body.get("add_generation_prompt")
    return loaded.chat.render(messages, add_generation_prompt=True if add is None else add, **variables)


def chat_tokens(body: JSON, loaded: LoadedModel, tools: Tools | None) -> tuple[int, ...]:
    """Return the tokens of the prompt, with BOS if the model wants it and the template has not written it."""
    tokenizer = loaded.tokenizer
    tokens = tokenizer.encode(render(body, loaded, tools), parse_special=True)
    before = bos(tokenizer)
    return (*([] if tokens[:1] == before else before), *tokens)
