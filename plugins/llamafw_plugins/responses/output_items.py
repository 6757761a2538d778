"""The items of a response's output while they are generated, and the stream events that describe their growth.

`builder` decides which item grows, and numbers the events.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.responses.input_items import encode_reasoning, make_id

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputItem(ABC):
    """An item of a response's output.

    Parameters
    ----------
    index : int
        Its place in the output.
    kind : str
        The item's type.
    """

    def __init__(self, index: int, kind: str) -> None:
        self.index, self.kind, self.id = index, kind, make_id(kind)
        self.status: ItemStatus = "in_progress"
        self.pieces: list[str] = []  # of its text

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    def open(self) -> Iterator[JSON]:
        """Yield the events that begin the item."""
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.json()}
        yield from self.open_part()

    def close(self, status: ItemStatus) -> Iterator[JSON]:
        """Yield the events that end the item."""
        yield from self.close_part()
        self.status = status
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.json()}

    def json(self) -> JSON:
        """Return the item as it is now."""
        return {"id": self.id, "type": self.kind, "status": self.status, **self.fields()}

    def event(self, kind: str, **fields: object) -> JSON:
        """Return an event about this item."""
        return {"type": f"response.{kind}", "item_id": self.id, "output_index": self.index, **fields}

    @abstractmethod
    def fields(self) -> JSON:
        """Return the members that only items of this type have."""

    @abstractmethod
    def open_part(self) -> Iterator[JSON]:
        """Yield the events between the item's first event and its text."""

    @abstractmethod
    def close_part(self) -> Iterator[JSON]:
        """Yield the events between the item's text and its last event."""


class MessageItem(OutputItem):
    """A message of the assistant, with one part."""

    def __init__(self, index: int) -> None:
        super().__init__(index, "message")
        self.logprobs: list[JSON] = []
        self._has_part = False

    def add(self, text: str, logprobs: Sequence[JSON]) -> JSON:
        """Append text; return the event."""
        self.pieces.append(text)
        self.logprobs += logprobs
        return self.event("output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))

    def fields(self) -> JSON:
        """Return the members that only messages have."""
        return {"role": "assistant", "content": [self._part()] if self._has_part else []}

    def open_part(self) -> Iterator[JSON]:
        """Yield the event that begins the text."""
        self._has_part = True
        yield self.event("content_part.added", content_index=0, part=self._part())

    def close_part(self) -> Iterator[JSON]:
        """Yield the events that end the text."""
        yield self.event("output_text.done", content_index=0, text=self.text, logprobs=list(self.logprobs))
        yield self.event("content_part.done", content_index=0, part=self._part())

    def _part(self) -> JSON:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self.logprobs)}


class ReasoningItem(OutputItem):
    """The model's reasoning.

    Parameters
    ----------
    index : int
        The item's place in the output.
    as_summary : bool
        Whether clients get the text as the summary instead of as the content.
    encoded : bool
        Whether clients also get the text in ``encrypted_content``.
    """

    def __init__(self, index: int, *, as_summary: bool, encoded: bool) -> None:
        super().__init__(index, "reasoning")
        self._as_summary, self._encoded = as_summary, encoded
        self._has_part = False

    def add(self, text: str) -> JSON:
        """Append text; return the event."""
        self.pieces.append(text)
        if self._as_summary:
            return self.event("reasoning_summary_text.delta", summary_index=0, delta=text)
        return self.event("reasoning_text.delta", content_index=0, delta=text)

    def fields(self) -> JSON:
        """Return the members that only reasoning has."""
        parts = [self._part()] if self._has_part else []
        fields: JSON = {"summary": parts} if self._as_summary else {"summary": [], "content": parts}
        if self._encoded:
            fields["encrypted_content"] = encode_reasoning(self.text) if self.status != "in_progress" else None
        return fields

    def open_part(self) -> Iterator[JSON]:
        """Yield the event that begins the text."""
        self._has_part = True
        yield self._part_event("added")

    def close_part(self) -> Iterator[JSON]:
        """Yield the events that end the text."""
        if self._as_summary:
            yield self.event("reasoning_summary_text.done", summary_index=0, text=self.text)
        else:
            yield self.event("reasoning_text.done", content_index=0, text=self.text)
        yield self._part_event("done")

    def _part(self) -> JSON:
        return {"type": "summary_text" if self._as_summary else "reasoning_text", "text": self.text}

    def _part_event(self, what: str) -> JSON:
        if self._as_summary:
            return self.event(f"reasoning_summary_part.{what}", summary_index=0, part=self._part())
        return self.event(f"content_part.{what}", content_index=0, part=self._part())


class FunctionCallItem(OutputItem):
    """A call of a function.

    Parameters
    ----------
    index : int
        The item's place in the output.
    i_call : int
        Number of the call in the answer.
    call_id : str
        The id that the call's output refers to.
    name : str
        Name of the function.
    namespace : str, optional
        The namespace that it is in.
    """

    def __init__(self, index: int, i_call: int, call_id: str, name: str, namespace: str | None = None) -> None:
        super().__init__(index, "function_call")
        self.i_call, self.call_id, self.name, self.namespace = i_call, call_id, name, namespace

    def add(self, arguments: str) -> JSON:
        """Append text to the arguments; return the event."""
        self.pieces.append(arguments)
        return self.event("function_call_arguments.delta", delta=arguments)

    def fields(self) -> JSON:
        """Return the members that only function calls have."""
        namespace = {} if self.namespace is None else {"namespace": self.namespace}
        return {"call_id": self.call_id, "name": self.name, **namespace, "arguments": self.text}

    def open_part(self) -> Iterator[JSON]:
        """Yield nothing: arguments have no event that begins them."""
        return iter(())

    def close_part(self) -> Iterator[JSON]:
        """Yield the event that ends the arguments."""
        yield self.event("function_call_arguments.done", name=self.name, arguments=self.text)
