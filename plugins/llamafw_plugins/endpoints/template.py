"""POST /apply-template, and the way from a conversation to a prompt that chat completions share."""
from __future__ import annotations

import asyncio

from llamafw import App, Call, LoadedModel, RequestError
from llamafw_plugins.endpoints.messages import plain_messages
from llamafw_plugins.endpoints.shapes import JSON
from llamafw_plugins.endpoints.unsupported import refuse_chat

RESERVED = ("messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token")  # ours to set


class ApplyTemplate:
    """The operation `applyTemplate`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> JSON:
        """Return the prompt that the conversation becomes."""
        return {"prompt": await asyncio.to_thread(render, call.body, self.app.loaded)}


def render(body: JSON, loaded: LoadedModel) -> str:
    """Return the prompt of a validated chat request. Runs on a worker thread, since templates may take their time.

    Raises
    ------
    RequestError
        The request wants what is not supported, or the template refused the conversation.
    """
    refuse_chat(body)
    variables = body.get("chat_template_kwargs") or {}
    for name in variables:
        if name in RESERVED:
            raise RequestError(f"the variable {name} is set by the server", param=f"chat_template_kwargs.{name}")
    messages = plain_messages(body["messages"], loaded.chat.source)
    add = body.get("add_generation_prompt")
    return loaded.chat.render(messages, add_generation_prompt=True if add is None else add, **variables)


def chat_tokens(body: JSON, loaded: LoadedModel) -> tuple[int, ...]:
    """Return the tokens of the prompt, with BOS if the model wants it and the template has not written it."""
    tokenizer = loaded.tokenizer
    tokens = tokenizer.encode(render(body, loaded), parse_special=True)
    if tokenizer.add_bos and tokenizer.bos is not None and tokens[:1] != [tokenizer.bos]:
        tokens.insert(0, tokenizer.bos)
    return tuple(tokens)
