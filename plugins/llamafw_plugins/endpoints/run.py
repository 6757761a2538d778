"""Several generations at once: their pieces as one stream, or their whole answers. It knows nothing of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from llamafw import Delta, Engine, Finish, GeneratedToken, GenerateRequest, RequestError

AHEAD = 16  # pieces kept for a client that reads slowly, when several answers share its stream


@dataclass(slots=True)
class Answer:
    """One whole answer."""

    text: str = ""
    tokens: list[GeneratedToken] = field(default_factory=list)
    prompt: list[GeneratedToken] = field(default_factory=list)  # if the request asks for them
    finish: Finish = Finish("none")


async def collect(
    engine: Engine, requests: Sequence[GenerateRequest], n: int = 1, field: str = "prompt"
) -> list[Answer]:
    """Return the answers, in order; otherwise like `stream`."""
    answers = [Answer() for _ in requests]
    parts: list[list[str]] = [[] for _ in requests]
    async with aclosing(stream(engine, requests, n, field)) as pieces:
        async for i, delta in pieces:
            parts[i].append(delta.text)
            answers[i].tokens += delta.tokens
            answers[i].prompt += delta.prompt
            if delta.finish:
                answers[i].finish = delta.finish
    for answer, texts in zip(answers, parts, strict=True):
        answer.text = "".join(texts)
    return answers


async def stream(
    engine: Engine, requests: Sequence[GenerateRequest], n: int = 1, field: str = "prompt"
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yield the number of a request and a piece of its answer, as they come.

    Closing the generator cancels all requests. If one fails, the others are cancelled.

    Parameters
    ----------
    n : int
        How many neighbouring requests share a prompt. An error says which of several prompts it is about.
    field : str
        The field of the body that the prompts come from, for errors.
    """
    if len(requests) == 1:
        try:
            async with aclosing(engine.generate(requests[0])) as deltas:
                async for delta in deltas:
                    yield 0, delta
        except RequestError as error:
            _place(error, field, None)
            raise
        return
    queue: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue(AHEAD)
    tasks = [asyncio.create_task(_pump(engine, request, i, queue)) for i, request in enumerate(requests)]
    running = len(tasks)
    try:
        while running:
            i, item = await queue.get()
            if isinstance(item, Exception):
                _place(item, field, i // n if len(requests) > n else None)
                raise item
            running -= item.finish is not None
            yield i, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    engine: Engine, request: GenerateRequest, i: int, queue: asyncio.Queue[tuple[int, Delta | Exception]]
) -> None:
    try:
        async with aclosing(engine.generate(request)) as deltas:
            async for delta in deltas:
                await queue.put((i, delta))
    except Exception as error:
        await queue.put((i, error))


def _place(error: Exception, field: str, i: int | None) -> None:
    """Let an error say which field, and which of several prompts, it is about."""
    if isinstance(error, RequestError):
        if i is not None:
            error.extra = {**error.extra, "index": i}
        if error.param == "prompt" or (error.param is None and i is not None):
            error.param = field if i is None else f"{field}.{i}"
