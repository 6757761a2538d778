"""POST /embedding and /embeddings, llama-server's own; POST /v1/embeddings, OpenAI's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from llamafw import (
    App,
    Call,
    ContextFullError,
    Embedding,
    EmbedRequest,
    Floats,
    LoadedModel,
    NotSupported,
    Pooling,
    RequestError,
)
from llamafw_plugins.endpoints.prompts import read_prompts
from llamafw_plugins.endpoints.server import sizes
from llamafw_plugins.endpoints.shapes import JSON

POOLINGS = ("none", "mean", "cls", "last", "rank")  # by the number that GGUF files have under ARCH.pooling_type
LARGEST = 32760  # what the largest number becomes with embd_normalize 0: it fits 16 bits


class Embeddings:
    """The operations `createEmbedding`, `createEmbeddingAlias` and `createOpenaiEmbedding`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def native(self, call: Call) -> Any:
        """Answer one text with an object, several with an array."""
        body = call.body
        if body.get("image_data"):
            raise NotSupported("this server has no plugin that reads images", param="image_data")
        given = [field for field in ("content", "input") if body.get(field) is not None]
        if len(given) != 1:
            raise RequestError('either "content" or "input" must be provided', param="content")
        found, pooling = await self._embed(body[given[0]], given[0])
        rows = [
            {"index": i, "embedding": shaped(normalised(one.vectors, norm(body, pooling)), pooling).tolist()}
            for i, one in enumerate(found)
        ]
        return rows if len(rows) > 1 else rows[0]

    async def openai(self, call: Call) -> JSON:
        """Answer with a list, whatever was given."""
        body, loaded = call.body, self.app.loaded
        wanted, (_, _, n_embd) = body.get("dimensions"), sizes(loaded)
        if wanted not in (None, n_embd):
            raise RequestError(f"embeddings of this model have {n_embd} dimensions, no others", param="dimensions")
        if pooling_of(loaded, self.app.settings.pooling) == "none":
            raise RequestError("without pooling there is no embedding of a whole text: use /embedding, or --pooling")
        found, pooling = await self._embed(body["input"], "input")
        write = as_base64 if body.get("encoding_format") == "base64" else as_list
        data = [
            {"object": "embedding", "index": i, "embedding": write(normalised(one.vectors, norm(body, pooling))[0])}
            for i, one in enumerate(found)
        ]
        n = sum(one.n_prompt for one in found)
        usage = {"prompt_tokens": n, "total_tokens": n}
        return {"object": "list", "model": body.get("model") or loaded.name, "data": data, "usage": usage}

    async def _embed(self, given: Any, field: str) -> tuple[list[Embedding], Pooling]:
        loaded = self.app.loaded
        pooling = pooling_of(loaded, self.app.settings.pooling)
        prompts = await read_prompts(given, loaded.tokenizer, field)
        places = [field] if len(prompts) == 1 else [f"{field}.{i}" for i in range(len(prompts))]
        return await embed_all(self.app, [prompt.tokens for prompt in prompts], pooling, places), pooling


async def embed_all(
    app: App, prompts: Sequence[tuple[int, ...]], pooling: Pooling, places: Sequence[str]
) -> list[Embedding]:
    """Return the embeddings, in order. If one fails, the others are cancelled.

    Some wait in the engine for those in slots, so that no slot is idle, but no more than may: one call, however many
    texts it has, is not refused because of its own.

    Parameters
    ----------
    places : sequence of str
        The field that each prompt comes from, for errors.
    """
    n_slots = max(app.loaded.engine.n_slots, 1)
    turn = asyncio.Semaphore(n_slots + min(n_slots, app.settings.max_queue))
    tasks = [
        asyncio.ensure_future(_one(app.loaded, prompt, pooling, place, turn))
        for prompt, place in zip(prompts, places, strict=True)
    ]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def pooling_of(loaded: LoadedModel, wanted: str | None) -> Pooling:
    """Return ``--pooling``, or what the model says, or ``last``, which has seen the whole text.

    Raises
    ------
    NotSupported
        It is ``rank``, which makes scores and not embeddings.
    """
    metadata = loaded.model.metadata
    found = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    name = wanted or (POOLINGS[int(found)] if found is not None and 0 <= int(found) < len(POOLINGS) else "last")
    if name == "rank":
        raise NotSupported("This server does not support embeddings: with `--pooling rank` it reranks")
    return cast("Pooling", name)


def norm(body: JSON, pooling: Pooling) -> int:
    """Return ``embd_normalize``, or its default."""
    given = body.get("embd_normalize")
    return (-1 if pooling == "none" else 2) if given is None else int(given)


def normalised(vectors: Floats, p: int) -> Floats:
    """Return the vectors, (n, n_embd), each divided by its p-norm; 0: by its largest number; -1: as they are."""
    if p < 0:
        return vectors
    sizes = np.abs(vectors.astype(np.float64))
    scale = sizes.max(axis=1) / LARGEST if p == 0 else (sizes**p).sum(axis=1) ** (1 / p)
    return (vectors / np.where(scale > 0, scale, 1)[:, None]).astype(np.float32)


def shaped(vectors: Floats, pooling: Pooling) -> Floats:
    """Return a vector, or without pooling all of them."""
    return vectors if pooling == "none" else vectors[0]


def as_list(vector: Floats) -> list[float]:
    """Return the numbers."""
    return cast("list[float]", vector.tolist())


def as_base64(vector: Floats) -> str:
    """Return the bytes of the numbers, little-endian float32, as OpenAI's client reads them."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


async def _one(
    loaded: LoadedModel, prompt: tuple[int, ...], pooling: Pooling, place: str, turn: asyncio.Semaphore
) -> Embedding:
    if not prompt:
        raise RequestError("the text has no tokens", param=place)
    try:
        async with turn:
            return await loaded.engine.embed(EmbedRequest(prompt, pooling))
    except ContextFullError as error:
        error.param = place
        raise
