"""POST /v1/chat/completions and /chat/completions: OpenAI's chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from llamafw import App, Call, Finish, GeneratedToken, GenerateRequest, LoadedModel, RequestError, event_stream
from llamafw_plugins.endpoints import completion
from llamafw_plugins.endpoints.choices import check_answers, choices_of, include_usage, usage_to_come
from llamafw_plugins.endpoints.prompts import Prompt
from llamafw_plugins.endpoints.run import Answer, collect, stream
from llamafw_plugins.endpoints.shapes import JSON, finish_reason, head, on_the_way, openai_logprobs, timings, usage
from llamafw_plugins.endpoints.template import chat_tokens
from llamafw_plugins.endpoints.tools import CallReader, Tools, call_shape, hold_to_calls, read_tools


class ChatCompletion:
    """The operations `createChatCompletion` and `createChatCompletionAlias`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer a conversation, ``n`` times."""
        body, loaded = call.body, self.app.loaded
        n = int(body.get("n") or 1)
        check_answers(body, n)
        tools = read_tools(body, loaded)
        tokens = await asyncio.to_thread(chat_tokens, body, loaded, tools)
        requests = choices_of([hold_to_calls(self._prepare(body, tokens), tools)], n)
        rows = Rows(loaded, requests, body, tools)
        if body.get("stream"):
            return event_stream(rows.events(), done=True)
        answers = await collect(loaded.engine, requests, n, "messages")
        return {
            **rows.head("chat.completion"),
            "choices": [rows.choice(i, answer.text, answer.tokens, answer.finish) for i, answer in enumerate(answers)],
            "usage": usage([[answer.finish for answer in answers]]),
            "timings": timings(answers[0].finish.timings),
            **({"__verbose": self._native(body, requests, answers[0])} if self.app.settings.tells_more else {}),
        }

    def _native(self, body: JSON, requests: Sequence[GenerateRequest], answer: Answer) -> JSON:
        """Return the first answer as `/completion` would give it, with the prompt that the template has written."""
        loaded = self.app.loaded
        text = loaded.tokenizer.decode(requests[0].prompt, special=True)
        rows = completion.Rows(loaded, [Prompt(text, requests[0].prompt)], requests, body)
        return rows.whole(0, answer.text, answer.tokens, answer.finish)

    def _prepare(self, body: JSON, tokens: Sequence[int]) -> GenerateRequest:
        request = self.app.prepare(body, tokens)
        if body.get("logprobs"):
            return replace(request, logprobs=True, n_probs=int(body.get("top_logprobs") or 0))
        if body.get("top_logprobs"):
            raise RequestError("top_logprobs needs logprobs", param="top_logprobs")
        return request


class Rows:
    """Writes the choices of one call."""

    def __init__(
        self, loaded: LoadedModel, requests: Sequence[GenerateRequest], body: JSON, tools: Tools | None
    ) -> None:
        self.engine, self.tokenizer, self.requests = loaded.engine, loaded.tokenizer, requests
        self._head = head("chatcmpl", "", body.get("model") or loaded.name)
        self.return_tokens = bool(body.get("return_tokens"))
        self.logprobs = requests[0].logprobs
        self.readers = [CallReader(tools) for _ in requests]
        self.usage, self.usage_to_come = include_usage(body), usage_to_come(body)

    def head(self, kind: str) -> JSON:
        """Return the members that the response, or each chunk, begins with."""
        return {**self._head, "object": kind}

    def choice(self, index: int, text: str, tokens: Sequence[GeneratedToken], finish: Finish) -> JSON:
        """Return one whole answer."""
        text, calls = self.readers[index].read(text, last=True)
        message: JSON = {"role": "assistant", "content": text}
        if calls:
            message |= {"content": text or None, "tool_calls": [call_shape(call) for call in calls]}
        return {
            "index": index,
            "message": message,
            "finish_reason": self.reason(index, finish),
            "logprobs": None,
            **self.extras(tokens),
        }

    async def events(self) -> AsyncGenerator[JSON, None]:
        """Yield per answer a chunk with the role, chunks with text, and one with the reason of its end; then usage."""
        finishes: list[Finish] = [Finish("none")] * len(self.requests)
        begun: set[int] = set()
        async with aclosing(stream(self.engine, self.requests, len(self.requests), "messages")) as pieces:
            async for i, delta in pieces:
                if i not in begun:
                    begun.add(i)
                    yield self.chunk(i, {"role": "assistant", "content": ""})
                text, calls = self.readers[i].read(delta.text, last=delta.finish is not None)
                extras, more = self.extras(delta.tokens) if delta.tokens else {}, on_the_way(delta)
                if text or extras or more:
                    yield self.chunk(i, {"content": text} if text or extras else {}, **extras) | more
                for number, call in enumerate(calls, self.readers[i].n_calls - len(calls)):
                    yield self.chunk(i, {"tool_calls": [{"index": number, **call_shape(call)}]})
                if delta.finish:
                    finishes[i] = delta.finish
                    end = self.chunk(i, {}, finish_reason=self.reason(i, delta.finish))
                    yield {**end, "timings": timings(delta.finish.timings)}
        if self.usage:
            yield {**self.head("chat.completion.chunk"), "choices": [], "usage": usage([finishes])}

    def chunk(self, index: int, delta: JSON, *, finish_reason: str | None = None, **extras: Any) -> JSON:
        """Return one chunk of the answer ``index``."""
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, **extras}
        return {**self.head("chat.completion.chunk"), "choices": [choice], **self.usage_to_come}

    def reason(self, index: int, finish: Finish) -> str:
        """Return OpenAI's name for the end of an answer."""
        return "tool_calls" if self.readers[index].n_calls else finish_reason(finish)

    def extras(self, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return what only some requests ask for."""
        extras = JSON()
        if self.logprobs:
            extras["logprobs"] = {"content": openai_logprobs(tokens, self.tokenizer)}
        if self.return_tokens:
            extras["tokens"] = [token.id for token in tokens]
        return extras
