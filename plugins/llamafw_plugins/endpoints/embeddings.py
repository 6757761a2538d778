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
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.server import model_sizes
from llamafw_plugins.endpoints.unsupported import refuse_generation_fields

POOLINGS = ("none", "mean", "cls", "last", "rank")  # indexed by ARCH.pooling_type of GGUF files
MAX_ABS_SCALE = 32760  # embd_normalize 0 scales the largest absolute value to this, which fits into 16 bits


class TextTooLarge(ContextFullError):
    """A text to embed does not fit into the context of a slot."""

    def __init__(self, n_prompt_tokens: int, n_ctx: int, *, param: str) -> None:
        super().__init__(n_prompt_tokens, n_ctx, param=param)
        size = f"it has {n_prompt_tokens} tokens, but the context of a slot has only {n_ctx}"
        self.message = f"the input is too large to embed: {size}"


class EmbeddingEndpoints:
    """The operations `createEmbedding`, `createEmbeddingAlias` and `createOpenaiEmbedding`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Return an object for one text, an array for several texts."""
        body = call.body
        refuse_generation_fields(body)
        fields = [field for field in ("content", "input") if body.get(field) is not None]
        if len(fields) != 1:
            raise RequestError('either "content" or "input" must be provided', param="content")

        embeddings, pooling = await self._embed(body[fields[0]], fields[0])
        p = norm_order(body, pooling, self.app.settings.embd_normalize)
        rows = []
        for i, embedding in enumerate(embeddings):
            vectors = scale_vectors(embedding.vectors, p)
            rows.append({"index": i, "embedding": (vectors if pooling == "none" else vectors[0]).tolist()})
        return rows if len(rows) > 1 else rows[0]

    async def create_openai(self, call: Call) -> JSON:
        """Return an object with a list of embeddings, even for one text."""
        body, loaded = call.body, self.app.loaded
        refuse_generation_fields(body)
        dimensions, (_, _, n_embd) = body.get("dimensions"), model_sizes(loaded)
        if dimensions not in (None, n_embd):
            message = f"embeddings of this model have {n_embd} dimensions and cannot have {dimensions}"
            raise RequestError(message, param="dimensions")
        if choose_pooling(loaded, self.app.settings.pooling) == "none":
            hint = "use /embedding, or start the server with another --pooling"
            raise RequestError(f"without pooling, a text has one embedding per token; {hint}")

        embeddings, pooling = await self._embed(body["input"], "input")
        p = norm_order(body, pooling, self.app.settings.embd_normalize)
        encode = as_base64 if body.get("encoding_format") == "base64" else as_list
        data = [
            {"object": "embedding", "index": i, "embedding": encode(scale_vectors(embedding.vectors, p)[0])}
            for i, embedding in enumerate(embeddings)
        ]
        return {
            "object": "list",
            "model": body.get("model") or loaded.name,
            "data": data,
            "usage": embedding_usage_json(embeddings),
        }

    async def _embed(self, value: Any, field: str) -> tuple[list[Embedding], Pooling]:
        """Return the embeddings of the texts in a request field, and how they were pooled."""
        loaded = self.app.loaded
        pooling = choose_pooling(loaded, self.app.settings.pooling)
        prompts = await read_prompts(value, loaded.tokenizer, field)
        params = [field] if len(prompts) == 1 else [f"{field}.{i}" for i in range(len(prompts))]
        return await embed_all(self.app, [prompt.tokens for prompt in prompts], pooling, params), pooling


async def embed_all(
    app: App, prompts: Sequence[tuple[int, ...]], pooling: Pooling, params: Sequence[str]
) -> list[Embedding]:
    """Return the embeddings in the order of the prompts.

    If one fails, the others are cancelled.

    At any time, the engine has one prompt per slot and as many waiting ones, if its queue allows that many. So no slot
    is idle between two prompts, and a request with many texts does not fill the queue.

    Parameters
    ----------
    params : sequence of str
        The request field of each prompt, for error messages.
    """
    n_slots = max(app.loaded.engine.n_slots, 1)
    semaphore = asyncio.Semaphore(n_slots + min(n_slots, app.settings.max_queue))
    tasks = [
        asyncio.ensure_future(_embed_one(app.loaded, prompt, pooling, param, semaphore))
        for prompt, param in zip(prompts, params, strict=True)
    ]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def choose_pooling(loaded: LoadedModel, flag: str | None) -> Pooling:
    """Return the pooling of ``--pooling``, else the model's, else ``last``: the last token has seen the whole text.

    Raises
    ------
    NotSupported
        The pooling is ``rank``, which produces scores instead of embeddings.
    """
    metadata = loaded.model.metadata
    number = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    name = flag or (POOLINGS[int(number)] if number is not None and 0 <= int(number) < len(POOLINGS) else "last")
    if name == "rank":
        raise NotSupported("This server does not support embeddings: with `--pooling rank` it reranks")
    return cast("Pooling", name)


def norm_order(body: JSON, pooling: Pooling, flag: int | None) -> int:
    """Return ``embd_normalize``.

    The default is ``flag``, else 2. Without pooling, it is -1.
    """
    value = body.get("embd_normalize")
    if value is None:
        value = -1 if pooling == "none" else 2 if flag is None else flag
    return int(value)


def scale_vectors(vectors: Floats, p: int) -> Floats:
    """Return the vectors, each scaled as ``embd_normalize`` says.

    Parameters
    ----------
    vectors : array of shape (n, n_embd), float32
        The vectors.
    p : int
        Positive: divide by the p-norm; 0: scale the largest absolute value to 32760; negative: do not scale.
    """
    if p < 0:
        return vectors
    sizes = np.abs(vectors.astype(np.float64))
    scale = sizes.max(axis=1) / MAX_ABS_SCALE if p == 0 else (sizes**p).sum(axis=1) ** (1 / p)
    return (vectors / np.where(scale > 0, scale, 1)[:, None]).astype(np.float32)


def as_list(vector: Floats) -> list[float]:
    """Return the numbers of a vector."""
    return cast("list[float]", vector.tolist())


def as_base64(vector: Floats) -> str:
    """Return a vector as base64 of little-endian float32 numbers, as OpenAI's client expects."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def embedding_usage_json(embeddings: Sequence[Embedding]) -> JSON:
    """Return OpenAI's ``usage`` of embeddings."""
    n = sum(embedding.n_prompt for embedding in embeddings)
    return {"prompt_tokens": n, "total_tokens": n}


async def _embed_one(
    loaded: LoadedModel, prompt: tuple[int, ...], pooling: Pooling, param: str, semaphore: asyncio.Semaphore
) -> Embedding:
    if not prompt:
        raise RequestError("the text has no tokens", param=param)
    try:
        async with semaphore:
            return await loaded.engine.embed(EmbedRequest(prompt, pooling))
    except ContextFullError as error:
        raise TextTooLarge(len(prompt), loaded.engine.n_ctx, param=param) from error
