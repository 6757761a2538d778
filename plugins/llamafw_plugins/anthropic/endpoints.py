"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from llamafw import App, Call, Problem, PromptProgress, ServerSentEvent, event_stream
from llamafw_plugins.anthropic.builder import MessageBuilder
from llamafw_plugins.anthropic.chat_body import chat_body, errors_about
from llamafw_plugins.anthropic.conversation import Conversation, read_conversation
from llamafw_plugins.anthropic.errors import error_format
from llamafw_plugins.endpoints.chat_requests import ChatRequest, prepare_chat
from llamafw_plugins.endpoints.generations import stream_all
from llamafw_plugins.endpoints.named_events import named
from llamafw_plugins.endpoints.openai_response import is_cut
from llamafw_plugins.endpoints.response_json import JSON


class MessageEndpoints:
    """The operations `createMessage` and `countMessageTokens`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer a conversation."""
        body = call.body
        conversation = read_conversation(body)
        chat = await self._prepare(body, conversation)
        builder = MessageBuilder(
            f"msg_{secrets.token_hex(12)}",
            body.get("model") or self.app.loaded.name,
            n_predict=chat.requests[0].n_predict,
            omits_thinking=(body.get("thinking") or {}).get("display") == "omitted",
        )

        events = self._events(chat, builder, conversation)
        if body.get("stream"):
            return event_stream(named(events), on_error=error_events)
        async with aclosing(events):
            async for _ in events:
                pass
        return builder.message

    async def count(self, call: Call) -> JSON:
        """Return the number of tokens of the prompt that `create` would make."""
        chat = await self._prepare(call.body, read_conversation(call.body))
        return {"input_tokens": len(chat.requests[0].prompt)}

    async def _prepare(self, body: JSON, conversation: Conversation) -> ChatRequest:
        with errors_about(conversation):
            return await prepare_chat(self.app, chat_body(body, conversation))

    async def _events(
        self, chat: ChatRequest, builder: MessageBuilder, conversation: Conversation
    ) -> AsyncGenerator[JSON, None]:
        """Yield the events of the answer, and complete the message in ``builder``.

        The first event is available when the prompt begins to be read. A ping follows for each part of the prompt.
        """
        request, reader = replace(chat.requests[0], return_progress=True), chat.reader()
        has_started = False
        with errors_about(conversation):
            async with aclosing(stream_all(self.app.loaded.engine, [request], prompt_field="messages")) as deltas:
                async for _, delta in deltas:
                    if not has_started:
                        has_started = True
                        first = delta.progress or PromptProgress(len(request.prompt), 0, 0, 0.0)
                        for event in builder.start(first.n_prompt, first.n_cached):
                            yield event
                    elif delta.progress:
                        yield {"type": "ping"}

                    last = delta.finish is not None
                    for event in builder.add(reader.read(delta.text, last=last, cut=is_cut(delta.finish))):
                        yield event
                    if delta.finish:
                        for event in builder.end(delta.finish):
                            yield event


def error_events(problem: Problem) -> Iterator[ServerSentEvent]:
    """Yield the event that ends a stream with an error."""
    yield ServerSentEvent(error_format(problem)[1], event="error")
