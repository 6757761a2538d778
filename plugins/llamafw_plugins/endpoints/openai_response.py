"""Build responses in OpenAI's format, whole or as streams of chunks, for chat completions and text completions."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from secrets import token_hex
from typing import Any, ClassVar, TypeVar

from llamafw import Delta, Finish, GenerateRequest, LoadedModel, __version__
from llamafw_plugins.endpoints.generations import Generation, stream_all
from llamafw_plugins.endpoints.response_json import JSON, timings_json, usage_json

T = TypeVar("T")

SYSTEM_FINGERPRINT = f"llamafw-{__version__}"


class OpenAIResponse(ABC):
    """Builds the response to one request.

    Each generation is a choice; ``n`` consecutive choices have the same prompt.

    Parameters
    ----------
    requests : sequence of GenerateRequest
        One per choice.
    body : dict
        The validated request body.
    n : int
        Choices per prompt.
    """

    id_prefix: ClassVar[str]
    object_name: ClassVar[str]  # the field `object` of a whole response
    chunk_object_name: ClassVar[str]  # the same field of a chunk
    prompt_field: ClassVar[str]  # the request field that errors about a prompt refer to
    is_chat: ClassVar[bool] = False  # whether answers may have reasoning

    def __init__(self, loaded: LoadedModel, requests: Sequence[GenerateRequest], body: JSON, n: int) -> None:
        self.engine, self.tokenizer = loaded.engine, loaded.tokenizer
        self.requests, self.n = requests, n
        self.return_tokens = bool(body.get("return_tokens"))
        self.include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._head = {
            "id": f"{self.id_prefix}-{token_hex(16)}",
            "created": int(time.time()),
            "model": body.get("model") or loaded.name,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    def whole(self, generations: Sequence[Generation], groups: Sequence[Sequence[Generation]]) -> JSON:
        """Return the response that is not streamed.

        Parameters
        ----------
        generations : sequence of Generation
            The generations to return, in the order of the choices.
        groups : sequence of sequences of Generation
            All generations, grouped by prompt. ``usage`` counts them all.
        """
        return {
            **self._head,
            "object": self.object_name,
            "choices": [self.choice(i, generation) for i, generation in enumerate(generations)],
            "usage": usage_json([[generation.finish for generation in group] for group in groups], chat=self.is_chat),
            "timings": timings_json(generations[0].finish.timings),
            "truncated": any(self.is_truncated(i, generation.finish) for i, generation in enumerate(generations)),
        }

    async def events(self) -> AsyncGenerator[JSON, None]:
        """Yield the chunks of the stream.

        The last one has ``usage`` and no choices, if the request asks for it.
        """
        finishes: list[Finish] = [Finish("none")] * len(self.requests)
        async with aclosing(stream_all(self.engine, self.requests, self.n, self.prompt_field)) as deltas:
            async for i, delta in deltas:
                for chunk in self.chunks(i, delta):
                    yield chunk
                if delta.finish:
                    finishes[i] = delta.finish

        if self.include_usage:
            head = {**self._head, "object": self.chunk_object_name}
            yield {**head, "choices": [], "usage": usage_json(grouped(finishes, self.n), chat=self.is_chat)}

    @abstractmethod
    def choice(self, index: int, generation: Generation) -> JSON:
        """Return one choice of a whole response."""

    @abstractmethod
    def chunks(self, index: int, delta: Delta) -> Iterator[JSON]:
        """Yield the chunks that one delta of the choice ``index`` becomes."""

    def chunk(self, choice: JSON, **fields: Any) -> JSON:
        """Return a chunk with one choice and further fields."""
        # OpenAI's clients expect null in the chunks before the one with the usage
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head, "object": self.chunk_object_name, "choices": [choice], **usage, **fields}

    def end_fields(self, index: int, finish: Finish) -> JSON:
        """Return the fields of the chunk that ends a choice."""
        return {"timings": timings_json(finish.timings), "truncated": self.is_truncated(index, finish)}

    def is_truncated(self, index: int, finish: Finish) -> bool:
        """Return whether the prompt was shortened or the context was full."""
        return finish.truncated


def finish_reason(finish: Finish) -> str:
    """Return OpenAI's name for the reason that a generation ended."""
    return "length" if is_cut(finish) else "stop"


def is_cut(finish: Finish | None) -> bool:
    """Return whether a generation ended at a limit."""
    return finish is not None and finish.stop_type == "limit"


def grouped(items: Sequence[T], n: int) -> list[Sequence[T]]:
    """Return the items in groups of ``n``."""
    return [items[i : i + n] for i in range(0, len(items), n)]
