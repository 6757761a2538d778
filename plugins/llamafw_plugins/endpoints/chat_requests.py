"""Turn a conversation into generation requests.

All chat APIs use this module. It is independent of the format of their responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamafw import App, GenerateRequest, RequestError
from llamafw_plugins.endpoints.answers import AnswerReader
from llamafw_plugins.endpoints.choices import check_n_generations, repeat_requests
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.template import chat_tokens, count_answer_start
from llamafw_plugins.endpoints.tools import Tools, read_tools, require_tool_call


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation, ready for the engine."""

    requests: Sequence[GenerateRequest]  # one per choice, all with the same prompt
    tools: Tools | None  # the tools that the model may call

    def reader(self) -> AnswerReader:
        """Return what reads the answer of one choice."""
        return AnswerReader(self.tools)


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
    tokens, n_answer_start = await asyncio.to_thread(_read_messages, app, body, tools)
    request = replace(_prepare(app, body, tokens), n_answer_start=n_answer_start)
    return ChatRequest(repeat_requests([require_tool_call(request, tools)], n), tools)


def _read_messages(app: App, body: JSON, tools: Tools | None) -> tuple[Sequence[int], int | None]:
    """Return the tokens of the prompt, and how many of them introduce the answer."""
    tokens = chat_tokens(body, app.loaded, tools)
    return tokens, count_answer_start(body, app.loaded, tokens)


def _prepare(app: App, body: JSON, tokens: Sequence[int]) -> GenerateRequest:
    request = app.prepare(body, tokens)
    if body.get("logprobs"):
        return replace(request, logprobs=True, n_probs=int(body.get("top_logprobs") or 0))
    if body.get("top_logprobs"):
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return request
