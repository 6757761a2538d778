"""Continue the last message of a conversation instead of starting a new one (assistant prefill)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from llamafw import ChatCapabilities, ReasoningTags, RequestError
from llamafw_plugins.endpoints.response_json import JSON

MARK = "\ufdd1continued\ufdd1"  # stands for the text that the model continues; never in a client's text


class Render(Protocol):
    """Renders a conversation."""

    def __call__(self, messages: Sequence[JSON], *, start: bool) -> str:
        """Return the prompt, with the start of an answer if ``start``."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """An answer that the model continues."""

    before: Sequence[JSON]  # the messages before it
    message: JSON  # in the form of `plain_messages`
    field: str  # the field to continue: content or reasoning_content
    can: ChatCapabilities

    @property
    def text(self) -> str:
        """The text that is continued."""
        return str(self.message.get(self.field, ""))

    @property
    def is_text(self) -> bool:
        """Whether the content is continued, not the reasoning."""
        return self.field == "content"

    def opens(self, tags: ReasoningTags) -> bool:
        """Return whether the text that is continued is within reasoning."""
        return self.text.lstrip().startswith(tags.start.strip()) and tags.end.strip() not in self.text

    def render(self, render: Render) -> str:
        """Return the prompt, which ends with the text that is continued."""
        marked = {**self.message, self.field: MARK}
        if self.is_text or self.can.reasoning_field is not None:
            with suppress(RequestError):  # some templates refuse an answer at the end
                prompt = render([*self.before, marked], start=False)
                if (end := prompt.rfind(MARK)) >= 0:
                    return prompt[:end] + self.text
        return render(self.before, start=True) + self._opening(render) + self.text

    def _opening(self, render: Callable[..., str]) -> str:
        """Return what comes between the start of an answer and the text that is continued."""
        tags = self.can.reasoning
        if tags is None:
            return ""
        opened = render(self.before, start=True).rstrip().endswith(tags.start.strip())
        if self.is_text:
            reasoning = self.message.get("reasoning_content", "")
            head = "" if opened or not reasoning else f"{tags.start}\n"
            return f"{head}{reasoning}\n{tags.end}\n\n" if opened or reasoning else ""
        return "" if opened else f"{tags.start}\n"


def read_continuation(
    body: JSON, messages: Sequence[JSON], can: ChatCapabilities, *, prefill: bool
) -> Continuation | None:
    """Return the answer that a request continues, or None if it starts a new one.

    Parameters
    ----------
    body : dict
        The validated request.
    messages : sequence of dict
        Its messages, in the form of `plain_messages`.
    can : ChatCapabilities
        What the template can do.
    prefill : bool
        Whether an answer at the end is continued if the request does not say what to do.

    Raises
    ------
    RequestError
        The request wants to continue a message, and there is none that can be continued.
    """
    asked: Any = body.get("continue_final_message")
    adds_start = body.get("add_generation_prompt")
    last = messages[-1]
    if asked and adds_start:
        message = "continue_final_message and add_generation_prompt cannot both be true"
        raise RequestError(message, param="continue_final_message")
    if asked and last["role"] != "assistant":
        message = "continue_final_message needs an assistant's message at the end"
        raise RequestError(message, param="continue_final_message")
    if asked and last.get("tool_calls"):
        raise RequestError("a message with tool calls cannot be continued", param="continue_final_message")

    if last["role"] != "assistant" or last.get("tool_calls"):
        return None
    if not asked and (asked is False or adds_start is not None or not prefill):
        return None
    field = asked if isinstance(asked, str) else "content"
    if not isinstance(asked, str) and not last["content"] and last.get("reasoning_content") and can.reasoning:
        field = "reasoning_content"
    if field == "reasoning_content" and can.reasoning is None:
        raise RequestError("the model has no tags for reasoning", param="continue_final_message")
    return Continuation(messages[:-1], last, field, can)
