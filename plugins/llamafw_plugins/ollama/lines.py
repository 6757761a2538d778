"""Build the lines of a stream, or the whole response, from the pieces of an answer.

Independent of HTTP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import Any

from llamafw import App, Finish, GeneratedToken, GenerateRequest, ToolCall, json_lines
from llamafw_plugins.endpoints.answers import AnswerDelta, AnswerReader, read_call_arguments
from llamafw_plugins.endpoints.chat_requests import with_logprobs
from llamafw_plugins.endpoints.generations import stream_all
from llamafw_plugins.endpoints.openai_response import finish_reason, is_cut
from llamafw_plugins.endpoints.response_json import JSON, chat_logprobs_json
from llamafw_plugins.ollama.errors import error_lines
from llamafw_plugins.ollama.options import errors_about

NS_PER_MS = 1_000_000


def now() -> str:
    """Return the time, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class LineBuilder(ABC):
    """Builds the lines of one answer.

    Parameters
    ----------
    app : App
        The server.
    body : dict
        The validated request.
    """

    def __init__(self, app: App, body: JSON) -> None:
        self.model = body["model"]
        self._tokenizer = app.loaded.tokenizer
        self._has_logprobs = bool(body.get("logprobs"))
        self._start = perf_counter_ns()
        self._call: ToolCall | None = None  # the call that is being written

    def read(self, answer: AnswerDelta, tokens: Sequence[GeneratedToken], *, last: bool) -> Iterator[JSON]:
        """Yield the line of the next piece of an answer, if it has content."""
        calls = list(self._whole_calls(answer, last=last))
        logprobs = self._logprobs(tokens)
        if answer.text or answer.reasoning or calls or logprobs:
            yield {**self._head(), **self.content(answer.text, answer.reasoning, calls), "done": False, **logprobs}

    def end(self, finish: Finish) -> JSON:
        """Return the last line."""
        return {**self._head(), **self.content("", "", []), **self.end_fields(finish)}

    def loaded(self) -> JSON:
        """Return the response to a request without a prompt, with which clients load a model."""
        return {**self._head(), **self.content("", "", []), "done": True, "done_reason": "load"}

    def whole(self, lines: Sequence[JSON]) -> JSON:
        """Return the whole response with the content of all lines."""
        last = dict(lines[-1])
        contents = [self.read_content(line) for line in lines[:-1]]
        text, thinking = "".join(content[0] for content in contents), "".join(content[1] for content in contents)
        last |= self.content(text, thinking, [call for content in contents for call in content[2]])
        if logprobs := [item for line in lines[:-1] for item in line.get("logprobs", ())]:
            last["logprobs"] = logprobs
        return last

    @abstractmethod
    def content(self, text: str, thinking: str, calls: Sequence[JSON]) -> JSON:
        """Return the members of a line that hold the answer."""

    @abstractmethod
    def read_content(self, line: JSON) -> tuple[str, str, Sequence[JSON]]:
        """Return the text, the thinking and the calls of a line."""

    def end_fields(self, finish: Finish) -> JSON:
        """Return the reason for the end, the counts, and the durations in nanoseconds."""
        timings = finish.timings
        return {
            "done": True,
            "done_reason": finish_reason(finish),
            "total_duration": perf_counter_ns() - self._start,
            "load_duration": 0,
            "prompt_eval_count": finish.n_prompt,
            "prompt_eval_cached_count": finish.n_cached,
            "prompt_eval_duration": int(timings.prompt_ms * NS_PER_MS),
            "eval_count": finish.n_predicted,
            "eval_duration": int(timings.predicted_ms * NS_PER_MS),
        }

    def _head(self) -> JSON:
        return {"model": self.model, "created_at": now()}

    def _whole_calls(self, answer: AnswerDelta, *, last: bool) -> Iterator[JSON]:
        """Yield the calls that are complete; a call that was cut off is left out."""
        if answer.text and self._call is not None:
            yield from self._finish_call()
        for delta in answer.calls:
            if delta.name is not None:
                yield from self._finish_call()
                self._call, self._i_call = ToolCall(delta.id, delta.name, ""), delta.index
            if self._call is not None:
                self._call = replace(self._call, arguments=self._call.arguments + delta.arguments)
        if last:
            yield from self._finish_call()

    def _finish_call(self) -> Iterator[JSON]:
        call, self._call = self._call, None
        if call is not None and (arguments := read_call_arguments(call.arguments)) is not None:
            function = {"index": self._i_call, "name": call.name, "arguments": arguments}
            yield {"id": call.id, "function": function}

    def _logprobs(self, tokens: Sequence[GeneratedToken]) -> JSON:
        if not self._has_logprobs or not tokens:
            return {}
        items = chat_logprobs_json(tokens, self._tokenizer)
        for item in items:
            for part in (item, *item["top_logprobs"]):
                del part["id"]
        return {"logprobs": items}


async def respond(app: App, request: GenerateRequest, reader: AnswerReader, builder: LineBuilder, body: JSON) -> Any:
    """Return the response to a request: a stream of lines, or one object."""
    request = with_logprobs(request, body)
    lines = generate_lines(app, request, reader, builder, body)
    if body.get("stream") is not False:
        return json_lines(lines, on_error=error_lines)
    async with aclosing(lines):
        return builder.whole([line async for line in lines])


async def generate_lines(
    app: App, request: GenerateRequest, reader: AnswerReader, builder: LineBuilder, body: JSON
) -> AsyncGenerator[JSON, None]:
    """Yield the lines of an answer while it is generated."""
    with errors_about(body):
        async with aclosing(stream_all(app.loaded.engine, [request])) as deltas:
            async for _, delta in deltas:
                is_last = delta.finish is not None
                answer = reader.read(delta.text, last=is_last, cut=is_cut(delta.finish))
                for line in builder.read(answer, delta.tokens, last=is_last):
                    yield line
                if delta.finish:
                    yield builder.end(delta.finish)
