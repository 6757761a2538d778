"""POST /v1/chat/completions and /chat/completions: OpenAI's chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from llamafw import App, Call, Delta, Finish, GeneratedToken, GenerateRequest, LoadedModel, RequestError, event_stream
from llamafw_plugins.endpoints.choices import check_n_generations, repeat_requests
from llamafw_plugins.endpoints.completion import CompletionResponse
from llamafw_plugins.endpoints.generations import Generation, generate_all
from llamafw_plugins.endpoints.openai_response import OpenAIResponse, finish_reason
from llamafw_plugins.endpoints.prompts import Prompt
from llamafw_plugins.endpoints.response_json import JSON, chat_logprobs_json, progress_json
from llamafw_plugins.endpoints.template import chat_tokens, count_answer_start
from llamafw_plugins.endpoints.tools import ToolCallReader, Tools, read_tools, require_tool_call, tool_call_json


class ChatEndpoints:
    """The operations `createChatCompletion` and `createChatCompletionAlias`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Continue a conversation with ``n`` choices."""
        body, loaded = call.body, self.app.loaded
        n = int(body.get("n") or 1)
        check_n_generations(body, n)

        tools = read_tools(body, loaded)
        tokens, n_answer_start = await asyncio.to_thread(self._read_messages, body, tools)
        request = replace(self._prepare(body, tokens), n_answer_start=n_answer_start)
        requests = repeat_requests([require_tool_call(request, tools)], n)
        response = ChatResponse(loaded, requests, body, n, tools)
        if body.get("stream"):
            return event_stream(response.events(), done=True)

        generations = await generate_all(loaded.engine, requests, n, response.prompt_field)
        whole = response.whole(generations, [generations])
        if self.app.settings.verbose_responses:
            whole["__verbose"] = self._native(body, requests, generations[0])
        return whole

    def _read_messages(self, body: JSON, tools: Tools | None) -> tuple[Sequence[int], int | None]:
        """Return the tokens of the prompt, and how many of them introduce the answer."""
        tokens = chat_tokens(body, self.app.loaded, tools)
        return tokens, count_answer_start(body, self.app.loaded, tokens)

    def _prepare(self, body: JSON, tokens: Sequence[int]) -> GenerateRequest:
        request = self.app.prepare(body, tokens)
        if body.get("logprobs"):
            return replace(request, logprobs=True, n_probs=int(body.get("top_logprobs") or 0))
        if body.get("top_logprobs"):
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        return request

    def _native(self, body: JSON, requests: Sequence[GenerateRequest], generation: Generation) -> JSON:
        """Return a generation in the format of `/completion`, with the prompt that the chat template rendered."""
        loaded, tokens = self.app.loaded, requests[0].prompt
        prompt = Prompt(loaded.tokenizer.decode(tokens, special=True), tokens)
        return CompletionResponse(loaded, [prompt], requests, body).whole(0, generation)


class ChatResponse(OpenAIResponse):
    """Builds the response to one chat completion request."""

    id_prefix = "chatcmpl"
    object_name, chunk_object_name = "chat.completion", "chat.completion.chunk"
    prompt_field = "messages"

    def __init__(
        self, loaded: LoadedModel, requests: Sequence[GenerateRequest], body: JSON, n: int, tools: Tools | None
    ) -> None:
        super().__init__(loaded, requests, body, n)
        self._logprobs = requests[0].logprobs
        self._readers = [ToolCallReader(tools) for _ in requests]
        self._started: set[int] = set()  # choices whose first chunk, with the role, has been sent

    def choice(self, index: int, generation: Generation) -> JSON:
        """Return one choice of a whole response."""
        text, calls = self._readers[index].read(generation.text, last=True)
        message: JSON = {"role": "assistant", "content": text}
        if calls:
            message |= {"content": text or None, "tool_calls": [tool_call_json(call) for call in calls]}

        return {
            "index": index,
            "message": message,
            "finish_reason": self._finish_reason(index, generation.finish),
            "logprobs": None,
            **self._token_fields(generation.tokens),
        }

    def chunks(self, index: int, delta: Delta) -> Iterator[JSON]:
        """Yield the chunks of one delta: the role first, then text, tool calls and the finish reason."""
        if index not in self._started:
            self._started.add(index)
            yield self._delta_chunk(index, {"role": "assistant", "content": ""})

        reader = self._readers[index]
        text, calls = reader.read(delta.text, last=delta.finish is not None)
        token_fields = self._token_fields(delta.tokens) if delta.tokens else {}
        progress = progress_json(delta)
        if text or token_fields or progress:
            content = {"content": text} if text or token_fields else {}
            yield self._delta_chunk(index, content, **token_fields) | progress

        for i, call in enumerate(calls, reader.n_calls - len(calls)):
            yield self._delta_chunk(index, {"tool_calls": [{"index": i, **tool_call_json(call)}]})

        if delta.finish:
            end = self._delta_chunk(index, {}, finish_reason=self._finish_reason(index, delta.finish))
            yield end | self.end_fields(index, delta.finish)

    def _delta_chunk(self, index: int, delta: JSON, *, finish_reason: str | None = None, **fields: Any) -> JSON:
        return self.chunk({"index": index, "delta": delta, "finish_reason": finish_reason, **fields})

    def _finish_reason(self, index: int, finish: Finish) -> str:
        return "tool_calls" if self._readers[index].n_calls else finish_reason(finish)

    def _token_fields(self, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return the fields about tokens that the request asks for."""
        fields = JSON()
        if self._logprobs:
            fields["logprobs"] = {"content": chat_logprobs_json(tokens, self.tokenizer)}
        if self.return_tokens:
            fields["tokens"] = [token.id for token in tokens]
        return fields
