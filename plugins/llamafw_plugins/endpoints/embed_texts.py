"""Embed the texts of a request, at most as many at a time as the engine has slots for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import (
    App,
    ContextFullError,
    Embedding,
    EmbedRequest,
    Floats,
    LoadedModel,
    Pooling,
    RequestError,
    Tokenizer,
)
from llamafw_plugins.endpoints.embedding_fields import TextLimit
from llamafw_plugins.endpoints.prompts import read_prompts
from llamafw_plugins.endpoints.response_json import JSON

_NO_LIMIT = TextLimit()


class TextTooLarge(ContextFullError):
    """A text to embed is longer than the model can read."""

    def __init__(self, n_prompt_tokens: int, n_ctx: int, *, param: str) -> None:
        super().__init__(n_prompt_tokens, n_ctx, param=param)
        size = f"it has {n_prompt_tokens} tokens, but the context of a slot has only {n_ctx}"
        self.message = f"{param} is too large to embed: {size}; truncate: true cuts it"


@dataclass(frozen=True, slots=True)
class TextVectors:
    """The embedding of a text, perhaps from several parts of it."""

    vectors: Floats  # (1, n_embd) or, without pooling, (n_tokens, n_embd)
    n_prompt: int  # tokens that were evaluated


async def embed_field(
    app: App, loaded: LoadedModel, value: Any, field: str, pooling: Pooling, limit: TextLimit = _NO_LIMIT
) -> list[TextVectors]:
    """Return the embeddings of the texts in a request field.

    Raises
    ------
    RequestError
        A text is empty, or too long and ``limit`` does not say what to do with it.
    """
    prompts = await read_prompts(value, loaded.tokenizer, field)
    several = len(prompts) > 1 or (
        isinstance(value, list) and isinstance(value[0], (str, list, dict)) and len(value) == 1
    )
    params = [f"{field}.{i}" for i in range(len(prompts))] if several else [field]
    return await embed_all(app, loaded, [prompt.tokens for prompt in prompts], pooling, params, limit)


async def embed_all(
    app: App,
    loaded: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    pooling: Pooling,
    params: Sequence[str],
    limit: TextLimit = _NO_LIMIT,
    n_first: int | None = None,
) -> list[TextVectors]:
    """Return the embeddings in the order of the prompts.

    If one fails, the others are cancelled.

    At any time, the engine has one prompt per slot and as many waiting ones, if its queue allows that many. So no slot
    is idle between two prompts, and a request with many texts does not fill the queue.

    Parameters
    ----------
    params : sequence of str
        The request field of each prompt, for error messages.
    n_first : int, optional
        How many tokens of each prompt belong to the first of two texts: the others are of the second type.
    """
    parts = [fit(prompt, loaded, param, limit) for prompt, param in zip(prompts, params, strict=True)]
    if [len(of_text) for of_text in parts] == [1]:  # one text needs no task of its own
        return [_join([await _embed_one(loaded, parts[0][0], pooling, params[0], n_first)], pooling)]

    n_slots = max(loaded.engine.n_slots, 1)
    semaphore = asyncio.Semaphore(n_slots + min(n_slots, app.settings.max_queue))
    tasks = [
        asyncio.ensure_future(_embed_in_turn(loaded, part, pooling, param, n_first, semaphore))
        for of_text, param in zip(parts, params, strict=True)
        for part in of_text
    ]
    try:
        embeddings = iter(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
    return [_join([next(embeddings) for _ in of_text], pooling) for of_text in parts]


def fit(prompt: tuple[int, ...], loaded: LoadedModel, param: str, limit: TextLimit) -> list[tuple[int, ...]]:
    """Return a prompt, what remains of it, or its parts, as ``limit`` says, so that the model can read them.

    Tokens that the model expects at both ends of a text stay, and each part gets them.
    """
    if not prompt:
        raise RequestError("the text has no tokens", param=param)
    n_ctx = loaded.engine.n_ctx
    size = min(n_ctx, limit.n_tokens or n_ctx)
    if len(prompt) <= size:
        return [prompt]
    if limit.cut == "none":
        raise TextTooLarge(len(prompt), n_ctx, param=param)

    first, last = _ends(prompt, loaded.tokenizer)
    inner = prompt[len(first) : len(prompt) - len(last)]
    room = size - len(first) - len(last)
    if room < 1:
        message = f"{size} tokens are too few for a text, which has {len(first) + len(last)} special tokens"
        raise RequestError(message, param="truncate_prompt_tokens")
    starts = {"end": [0], "start": [len(inner) - room], "split": range(0, len(inner), room)}[limit.cut]
    return [(*first, *inner[start : start + room], *last) for start in starts]


def embedding_usage_json(embeddings: Sequence[TextVectors]) -> JSON:
    """Return OpenAI's ``usage`` of embeddings."""
    n = sum(embedding.n_prompt for embedding in embeddings)
    return {"prompt_tokens": n, "total_tokens": n}


def _ends(prompt: tuple[int, ...], tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens at the start and at the end of a prompt."""
    first = prompt[:1] if tokenizer.add_bos and prompt[0] == tokenizer.bos else ()
    last = prompt[-1:] if tokenizer.add_eos and prompt[-1] == tokenizer.eos else ()
    return first, last


def _join(parts: list[Embedding], pooling: Pooling) -> TextVectors:
    """Return the embedding of a text from those of its parts: their mean, weighted by their numbers of tokens."""
    n = sum(part.n_prompt for part in parts)
    if len(parts) == 1:
        return TextVectors(parts[0].vectors, n)
    if pooling == "none":
        return TextVectors(np.concatenate([part.vectors for part in parts]), n)
    total = sum(part.vectors.astype(np.float64) * part.n_prompt for part in parts)
    return TextVectors(np.asarray(total / n, np.float32), n)


async def _embed_in_turn(
    loaded: LoadedModel,
    prompt: tuple[int, ...],
    pooling: Pooling,
    param: str,
    n_first: int | None,
    semaphore: asyncio.Semaphore,
) -> Embedding:
    async with semaphore:
        return await _embed_one(loaded, prompt, pooling, param, n_first)


async def _embed_one(
    loaded: LoadedModel, prompt: tuple[int, ...], pooling: Pooling, param: str, n_first: int | None
) -> Embedding:
    types = () if n_first is None else (*[0] * n_first, *[1] * (len(prompt) - n_first))
    try:
        return await loaded.engine.embed(EmbedRequest(prompt, pooling, types=types))
    except ContextFullError as error:
        raise TextTooLarge(len(prompt), loaded.engine.n_ctx, param=param) from error
