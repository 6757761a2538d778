"""Run several generations at once and stream or collect their results.

Independent of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from llamafw import Delta, Engine, Finish, GeneratedToken, GenerateRequest, RequestError

MAX_BUFFERED_DELTAS = 16  # of all generations together, while a slow client reads their shared stream


@dataclass(slots=True)
class Generation:
    """One complete generation."""

    text: str = ""
    tokens: list[GeneratedToken] = field(default_factory=list)
    prompt: list[GeneratedToken] = field(default_factory=list)  # the prompt's tokens, if the request asks for them
    finish: Finish = Finish("none")


async def generate_all(
    engine: Engine, requests: Sequence[GenerateRequest], n: int = 1, prompt_field: str = "prompt"
) -> list[Generation]:
    """Return the complete generations in the order of the requests.

    See `stream_all` for parameters and errors.
    """
    generations = [Generation() for _ in requests]
    texts: list[list[str]] = [[] for _ in requests]
    async with aclosing(stream_all(engine, requests, n, prompt_field)) as deltas:
        async for i, delta in deltas:
            texts[i].append(delta.text)
            generations[i].tokens += delta.tokens
            generations[i].prompt += delta.prompt
            if delta.finish:
                generations[i].finish = delta.finish

    for generation, pieces in zip(generations, texts, strict=True):
        generation.text = "".join(pieces)
    return generations


async def stream_all(
    engine: Engine, requests: Sequence[GenerateRequest], n: int = 1, prompt_field: str = "prompt"
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yield pairs of a request's index and the next delta of its generation, as they arrive.

    Closing the generator cancels all requests. If one request fails, the others are cancelled.

    Parameters
    ----------
    n : int
        How many consecutive requests share a prompt. With several prompts, an error names the prompt that caused it.
    prompt_field : str
        The request field that has the prompts, for errors.

    Raises
    ------
    RequestError
        The engine refuses a request, or its generation fails.
    """
    if len(requests) == 1:
        try:
            async with aclosing(engine.generate(requests[0])) as deltas:
                async for delta in deltas:
                    yield 0, delta
        except RequestError as error:
            locate_error(error, prompt_field, None)
            raise
        return

    queue: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue(MAX_BUFFERED_DELTAS)
    tasks = [asyncio.create_task(_forward(engine, request, i, queue)) for i, request in enumerate(requests)]
    n_running = len(tasks)
    try:
        while n_running:
            i, item = await queue.get()
            if isinstance(item, Exception):
                locate_error(item, prompt_field, i // n if len(requests) > n else None)
                raise item
            n_running -= item.finish is not None
            yield i, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    engine: Engine, request: GenerateRequest, i: int, queue: asyncio.Queue[tuple[int, Delta | Exception]]
) -> None:
    """Put the deltas of one generation into the queue, and the error if it fails."""
    try:
        async with aclosing(engine.generate(request)) as deltas:
            async for delta in deltas:
                await queue.put((i, delta))
    except Exception as error:
        await queue.put((i, error))


def locate_error(error: Exception, prompt_field: str, i_prompt: int | None) -> None:
    """Add the prompt that caused an error to its ``param`` and, if there are several prompts, to its ``index``.

    Parameters
    ----------
    i_prompt : int, optional
        Index of the prompt; None if there is only one.
    """
    if isinstance(error, RequestError):
        if i_prompt is not None:
            error.extra = {**error.extra, "index": i_prompt}
        if error.param == "prompt" or (error.param is None and i_prompt is not None):
            error.param = prompt_field if i_prompt is None else f"{prompt_field}.{i_prompt}"
