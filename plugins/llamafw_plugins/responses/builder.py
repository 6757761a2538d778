"""Build a response from the pieces of an answer, with the events of its stream.

Independent of HTTP and of the engine.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llamafw import Delta, Finish, GeneratedToken, Problem, Tokenizer
from llamafw_plugins.endpoints.answers import AnswerDelta, CallDelta, is_json
from llamafw_plugins.endpoints.openai_response import is_cut
from llamafw_plugins.endpoints.response_json import JSON, chat_logprobs_json, progress_json, timings_json
from llamafw_plugins.responses.output_items import (
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    ReasoningItem,
)
from llamafw_plugins.responses.token_ranges import TokenRanges

FINISHED = ("completed", "incomplete", "failed", "cancelled")
"""The states in which a response does not change any more."""

_DELTA_SIZE = 32  # with obfuscation, the size of deltas in characters is a multiple of this


@dataclass(frozen=True, slots=True)
class BuilderOptions:
    """What a request wants to see."""

    logprobs: bool = False  # the log-probabilities of tokens
    tokens: bool = False  # the ids of tokens
    reasoning_as_summary: bool = False  # reasoning as the summary instead of as the content
    encoded_reasoning: bool = False  # reasoning also in `encrypted_content`
    obfuscation: bool = False  # random characters in events that hide the lengths of tokens
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # name of a function → namespace and name


class ResponseBuilder:
    """Builds one response.

    Each method that yields events changes the response as they say.

    Parameters
    ----------
    head : dict
        The members of the response that do not change.
    tokenizer : Tokenizer
        Turns tokens into text, for log-probabilities.
    options : BuilderOptions
        What the request wants to see.
    """

    def __init__(self, head: JSON, tokenizer: Tokenizer, options: BuilderOptions) -> None:
        self._tokenizer, self._options = tokenizer, options
        self._fields: JSON = {
            **head,
            "status": "in_progress",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }
        self._items: list[OutputItem] = []
        self._open: OutputItem | None = None
        self._ranges = TokenRanges()
        self._n_events = 0

    @property
    def response(self) -> JSON:
        """The response as it is now."""
        return {**self._fields, "output": [item.json() for item in self._items]}

    @property
    def status(self) -> str:
        """The state of the response."""
        status: str = self._fields["status"]
        return status

    def start(self) -> Iterator[JSON]:
        """Yield the events that begin a running response."""
        yield self._lifecycle("created")
        yield self._lifecycle("in_progress")

    def enqueue(self) -> Iterator[JSON]:
        """Yield the events that begin a waiting response."""
        self._fields["status"] = "queued"
        yield self._lifecycle("created")
        yield self._lifecycle("queued")

    def go_on(self) -> Iterator[JSON]:
        """Yield the events that must precede those of the answer, unless they were yielded before."""
        if not self._n_events:
            yield from self.start()
        elif self.status == "queued":
            self._fields["status"] = "in_progress"
            yield self._lifecycle("in_progress")

    def feed(self, delta: Delta, answer: AnswerDelta) -> Iterator[JSON]:
        """Yield the events of a piece of the answer.

        Parameters
        ----------
        delta : Delta
            What the engine generated. Its end ends the response.
        answer : AnswerDelta
            What the piece adds to the answer.
        """
        self._ranges.add(delta.tokens)
        extra = progress_json(delta)
        if "prompt_progress" in extra:
            yield self._lifecycle("in_progress", **extra)
            extra = {}

        if answer.reasoning:
            yield from self._add_reasoning(answer.reasoning, extra)
        if answer.text:
            yield from self._add_text(answer.text, extra)
        for call in answer.calls:
            yield from self._add_call(call, extra)
        if delta.finish:
            yield from self._finish(delta.finish)

    def fail(self, problem: Problem) -> Iterator[JSON]:
        """Yield the events that end a failed response."""
        code = "server_error" if problem.status >= 500 else "invalid_prompt"
        code = "rate_limit_exceeded" if problem.status == 429 else code
        if not self._n_events:  # the stream began with comments while a grammar was compiled
            yield from self.start()
        yield from self._close("incomplete")
        yield self._numbered({"type": "error", "code": code, "message": problem.message, "param": problem.param})
        error = {"code": code, "message": problem.message, "type": problem.type, "param": problem.param}
        self._fields |= {"status": "failed", "error": error}
        yield self._lifecycle("failed")

    def cancel(self) -> Iterator[JSON]:
        """Yield the events that end a cancelled response."""
        yield from self._close("incomplete")
        self._fields["status"] = "cancelled"
        yield self._lifecycle("incomplete")  # cancelled responses have no event of their own

    # --- the items

    def _add_reasoning(self, text: str, extra: JSON) -> Iterator[JSON]:
        self._ranges.take(text)
        item = self._open
        if not isinstance(item, ReasoningItem):
            options = self._options
            item = ReasoningItem(
                len(self._items), as_summary=options.reasoning_as_summary, encoded=options.encoded_reasoning
            )
            yield from self._begin(item)
        yield self._numbered(item.add(text) | extra)

    def _add_text(self, text: str, extra: JSON) -> Iterator[JSON]:
        tokens = self._ranges.take(text)
        item = self._open
        if not isinstance(item, MessageItem):
            item = MessageItem(len(self._items))
            yield from self._begin(item)
        yield self._numbered(item.add(text, self._logprobs(tokens)) | extra)

    def _add_call(self, call: CallDelta, extra: JSON) -> Iterator[JSON]:
        self._ranges.drop()
        item = self._open
        if not isinstance(item, FunctionCallItem) or item.i_call != call.index:
            namespace, name = self._options.namespaces.get(call.name or "", (None, call.name or ""))
            item = FunctionCallItem(len(self._items), call.index, call.id, name, namespace)
            yield from self._begin(item)
        if call.arguments:
            yield self._numbered(item.add(call.arguments) | extra)

    def _begin(self, item: OutputItem) -> Iterator[JSON]:
        """End the current item and begin another."""
        yield from self._close("completed")
        self._items.append(item)
        self._open = item
        for event in item.open():
            yield self._numbered(event)

    def _close(self, status: ItemStatus) -> Iterator[JSON]:
        item, self._open = self._open, None
        if item is not None:
            if isinstance(item, FunctionCallItem):
                status = "completed" if is_json(item.text) else "incomplete"
            for event in item.close(status):
                yield self._numbered(event)

    def _logprobs(self, tokens: Sequence[GeneratedToken]) -> list[JSON]:
        return chat_logprobs_json(tokens, self._tokenizer) if self._options.logprobs else []

    # --- the end

    def _finish(self, finish: Finish) -> Iterator[JSON]:
        is_complete = not is_cut(finish)
        if not self._items:  # the answer is empty
            yield from self._begin(MessageItem(0))
        yield from self._close("completed" if is_complete else "incomplete")

        self._fields |= {
            "status": "completed" if is_complete else "incomplete",
            "completed_at": int(time.time()) if is_complete else None,
            "incomplete_details": None if is_complete else {"reason": "max_output_tokens"},
            "usage": _usage(finish),
            "timings": timings_json(finish.timings),
            "truncated": finish.truncated,
        }
        if self._options.tokens:
            self._fields["tokens"] = list(finish.tokens)
        yield self._lifecycle(self.status)

    # --- events

    def _lifecycle(self, kind: str, **extra: object) -> JSON:
        return self._numbered({"type": f"response.{kind}", "response": self.response, **extra})

    def _numbered(self, event: JSON) -> JSON:
        event["sequence_number"] = self._n_events
        self._n_events += 1
        if self._options.obfuscation and "delta" in event:
            n_missing = -len(event["delta"]) % _DELTA_SIZE
            event["obfuscation"] = secrets.token_urlsafe(n_missing)[:n_missing]
        return event


def _usage(finish: Finish) -> JSON:
    return {
        "input_tokens": finish.n_prompt,
        "input_tokens_details": {
            "cached_tokens": finish.n_cached,
            "cache_write_tokens": max(finish.n_prompt - finish.n_cached, 0),  # all evaluated tokens stay in the slot
        },
        "output_tokens": finish.n_predicted,
        "output_tokens_details": {"reasoning_tokens": finish.n_reasoning},
        "total_tokens": finish.n_prompt + finish.n_predicted,
    }
