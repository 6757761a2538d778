"""POST /v1/chat/completions and /chat/completions: OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llamafw import App, Call, Delta, Finish, GeneratedToken, GenerateRequest, LoadedModel, ToolCall, event_stream
from llamafw_plugins.endpoints.answers import CallDelta, whole_calls
from llamafw_plugins.endpoints.chat_requests import ChatRequest, prepare_chat
from llamafw_plugins.endpoints.completion import CompletionResponse
from llamafw_plugins.endpoints.generations import Generation, generate_all
from llamafw_plugins.endpoints.openai_response import OpenAIResponse, finish_reason, is_cut
from llamafw_plugins.endpoints.prompts import Prompt
from llamafw_plugins.endpoints.response_json import JSON, chat_logprobs_json, progress_json


class ChatEndpoints:
    """The operations `createChatCompletion` and `createChatCompletionAlias`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Continue a conversation with ``n`` choices."""
        body, loaded = call.body, self.app.loaded
        chat = await prepare_chat(self.app, body)
        requests, n = chat.requests, len(chat.requests)
        response = ChatResponse(loaded, chat, body, verbose=self.app.settings.verbose_responses)
        if body.get("stream"):
            return event_stream(response.events(), done=True)

        generations = await generate_all(loaded.engine, requests, n, response.prompt_field)
        return response.whole(generations, [generations]) | response.verbose_fields(generations[0])


class ChatResponse(OpenAIResponse):
    """Builds the response to one chat completion request.

    Parameters
    ----------
    verbose : bool
        Whether the response has the field `__verbose`.
    """

    id_prefix = "chatcmpl"
    object_name, chunk_object_name = "chat.completion", "chat.completion.chunk"
    prompt_field = "messages"
    is_chat = True

    def __init__(self, loaded: LoadedModel, chat: ChatRequest, body: JSON, *, verbose: bool = False) -> None:
        super().__init__(loaded, chat.requests, body, len(chat.requests))
        self._native = native_response(loaded, chat.requests, body) if verbose else None
        self._logprobs = chat.requests[0].logprobs
        self._readers = [chat.reader() for _ in chat.requests]
        self._started: set[int] = set()  # choices whose first chunk, with the role, has been sent

    def choice(self, index: int, generation: Generation) -> JSON:
        """Return one choice of a whole response."""
        answer = self._readers[index].read(generation.text, last=True, cut=is_cut(generation.finish))
        message: JSON = {"role": "assistant", "content": answer.text}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if calls := whole_calls(answer):
            message |= {"content": answer.text or None, "tool_calls": [_call_json(call) for call in calls]}

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
            yield self._delta_chunk(index, {"role": "assistant", "content": None})

        last = delta.finish is not None
        answer = self._readers[index].read(delta.text, last=last, cut=is_cut(delta.finish))
        token_fields = self._token_fields(delta.tokens) if delta.tokens else {}
        progress = progress_json(delta)
        if answer.reasoning:
            yield self._delta_chunk(index, {"reasoning_content": answer.reasoning}, **token_fields) | progress
            token_fields, progress = {}, {}
        if answer.text or token_fields or progress:
            content = {"content": answer.text} if answer.text or token_fields else {}
            yield self._delta_chunk(index, content, **token_fields) | progress

        for call in answer.calls:
            yield self._delta_chunk(index, {"tool_calls": [_call_delta_json(call)]})

        if delta.finish:
            end = self._delta_chunk(index, {}, finish_reason=self._finish_reason(index, delta.finish))
            yield end | self.end_fields(index, delta.finish) | self.verbose_fields(Generation(finish=delta.finish))

    def verbose_fields(self, generation: Generation) -> JSON:
        """Return `__verbose`, if the server is verbose: a generation in the format of `/completion`."""
        return {"__verbose": self._native.whole(0, generation)} if self._native else {}

    def _delta_chunk(self, index: int, delta: JSON, *, finish_reason: str | None = None, **fields: Any) -> JSON:
        return self.chunk({"index": index, "delta": delta, "finish_reason": finish_reason, **fields})

    def _finish_reason(self, index: int, finish: Finish) -> str:
        has_calls = self._readers[index].n_calls and not is_cut(finish)
        return "tool_calls" if has_calls else finish_reason(finish)

    def _token_fields(self, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return the fields about tokens that the request asks for."""
        fields = JSON()
        if self._logprobs:
            fields["logprobs"] = {"content": chat_logprobs_json(tokens, self.tokenizer)}
        if self.return_tokens:
            fields["tokens"] = [token.id for token in tokens]
        return fields


def native_response(loaded: LoadedModel, requests: Sequence[GenerateRequest], body: JSON) -> CompletionResponse:
    """Return what builds responses of `/completion`, with the prompt that the chat template rendered."""
    tokens = requests[0].prompt
    return CompletionResponse(loaded, [Prompt(loaded.tokenizer.decode(tokens, special=True), tokens)], requests, body)


def _call_json(call: ToolCall) -> JSON:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_delta_json(delta: CallDelta) -> JSON:
    if delta.name is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    return {"index": delta.index, **_call_json(ToolCall(delta.id, delta.name, delta.arguments))}
