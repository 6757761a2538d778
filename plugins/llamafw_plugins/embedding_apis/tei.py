"""POST /, /embed, /embed_all and /similarity: the operations of Text Embeddings Inference.

The API is described at https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from llamafw import App, Call, Floats, Pooling, RequestError
from llamafw_plugins.endpoints.embed_texts import TextVectors, embed_field
from llamafw_plugins.endpoints.embedding_fields import (
    Cut,
    TextLimit,
    add_prefix,
    choose_dimensions,
    choose_embedder,
    choose_one_vector_pooling,
    choose_prefix,
)
from llamafw_plugins.endpoints.rerank import RerankEndpoints
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.vectors import as_numbers, scale_vectors

LENGTH_ONE, UNSCALED = 2, -1  # orders of norms, as in `embd_normalize`
ADVICE = "use /embed_all, or start the server with another --pooling"


class TeiEndpoints:
    """The operations `createTeiResult`, `createTeiEmbeddings`, `createTeiTokenEmbeddings`, `createTeiSimilarities`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def answer(self, call: Call) -> Any:
        """Return what /embed or /rerank returns, whichever has the fields of the request."""
        given = tuple(field for field in ("inputs", "query", "texts") if call.body.get(field) is not None)
        if given == ("inputs",):
            return await self.embed(call)
        if given == ("query", "texts"):
            return await RerankEndpoints(self.app).create(call)
        raise RequestError('either "inputs", or "query" and "texts" must be provided', param="inputs")

    async def embed(self, call: Call) -> list[Floats]:
        """Return the vector of each text, with the length 1 unless ``normalize`` is false."""
        body = call.body
        dimensions = choose_dimensions(body, choose_embedder(self.app), self.app.settings)
        embeddings = await self._embed(body["inputs"], "inputs", body)
        norm = UNSCALED if body.get("normalize") is False else LENGTH_ONE
        return [as_numbers(scale_vectors(embedding.vectors[:, :dimensions], norm)[0]) for embedding in embeddings]

    async def embed_tokens(self, call: Call) -> list[Floats]:
        """Return the vectors of all tokens of each text, not scaled."""
        body = call.body
        embeddings = await self._embed(body["inputs"], "inputs", body, pooling="none")
        return [as_numbers(embedding.vectors) for embedding in embeddings]

    async def compare(self, call: Call) -> list[float]:
        """Return the cosine similarity of each sentence with the first one."""
        inputs, options = call.body["inputs"], call.body.get("parameters") or {}
        (source,) = await self._embed(inputs["source_sentence"], "inputs.source_sentence", options)
        others = await self._embed(inputs["sentences"], "inputs.sentences", options)
        vectors = np.concatenate([scale_vectors(embedding.vectors, LENGTH_ONE) for embedding in (source, *others)])
        products = vectors.astype(np.float64)
        return [float(value) for value in products[1:] @ products[0]]

    async def _embed(
        self, value: Any, field: str, options: JSON, pooling: Literal["none"] | None = None
    ) -> list[TextVectors]:
        loaded, settings = choose_embedder(self.app), self.app.settings
        chosen: Pooling = pooling or choose_one_vector_pooling(loaded, settings.pooling, ADVICE)
        prefix = choose_prefix(options.get("prompt_name"), loaded, settings, "prompt_name")
        cut: Cut = "start" if options.get("truncation_direction") == "Left" else "end"
        limit = TextLimit(cut if options.get("truncate") else "none")
        return await embed_field(self.app, loaded, add_prefix(value, prefix), field, chosen, limit)
