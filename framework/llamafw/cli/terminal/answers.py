"""Collect the events of a stream into an answer, and say in words what is special about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal or reverse the direction of text, and surrogates; not line breaks and tabs."""


def printable(text: str) -> str:
    """Return a text of a model or a server without characters that would control a terminal."""
    return _CONTROL.sub("", text)


@dataclass(slots=True)
class Answer:
    """An answer, as far as it has been received."""

    content: str = ""
    reasoning: str = ""
    finish: str | None = None  # why it ended: "stop", "length", "tool_calls"
    progress: float | None = None  # how much of the prompt has been read, from 0 to 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_per_second: float | None = None
    is_truncated: bool = False  # the start of the conversation was left out
    ignored: str = ""  # fields of the request that the server does not know
    tool_calls: list[str] = field(default_factory=list)  # names of functions that the model wants to call

    def add(self, event: Mapping[str, Any]) -> tuple[str, str]:
        """Take in one event; return the reasoning and the text that are new."""
        self.ignored = event.get("ignored") or self.ignored
        if usage := event.get("usage"):
            self.prompt_tokens = usage.get("prompt_tokens")
            self.completion_tokens = usage.get("completion_tokens")
        if timings := event.get("timings"):
            self.tokens_per_second = timings.get("predicted_per_second")
        if (progress := event.get("prompt_progress")) and progress.get("total"):
            self.progress = progress["processed"] / progress["total"]
        self.is_truncated = bool(event.get("truncated", self.is_truncated))
        choice = (event.get("choices") or [{}])[0]
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            if name := call.get("function", {}).get("name"):
                self.tool_calls.append(printable(name))
        reasoning = printable(delta.get("reasoning_content") or "")
        text = printable(delta.get("content") or "")
        self.reasoning += reasoning
        self.content += text
        return reasoning, text

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message of the API."""
        reasoning = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": "assistant", "content": self.content, **reasoning}

    @property
    def n_tokens(self) -> int | None:
        """Number of tokens of the conversation with this answer; None if the server has not reported it."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens

    def figures(self, n_ctx: int | None) -> str:
        """Return the number of tokens, the speed and the use of the context in one line; "" if they are not known."""
        parts = []
        if self.completion_tokens is not None:
            parts.append(f"{self.completion_tokens} token{'s' * (self.completion_tokens != 1)}")
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:.1f} tokens/s")
        if self.n_tokens is not None and n_ctx:
            parts.append(f"context {self.n_tokens} of {n_ctx}")
        return ", ".join(parts)

    def warnings(self, n_ctx: int | None) -> list[str]:
        """Return sentences about what the user should know.

        Parameters
        ----------
        n_ctx : int or None
            Size of the context in tokens, if it is known.
        """
        sentences = []
        if self.ignored:
            sentences.append(f"the server ignored fields that it does not know: {printable(self.ignored)}")
        if self.is_truncated:
            sentences.append("the conversation did not fit into the context; the model has not seen all of it")
        if self.finish == "length" and n_ctx and self.n_tokens is not None and self.n_tokens >= n_ctx:
            sentences.append("the answer was cut off because the context is full")
        elif self.finish == "length":
            sentences.append("the answer was cut off at the token limit")
        if self.tool_calls:
            sentences.append(f"the model wants to call {', '.join(self.tool_calls)}; tools cannot run in the terminal")
        return sentences
