"""POST /embedding and /embeddings, llama-server's own; POST /v1/embeddings, OpenAI's, with Jina's fields."""

from __future__ import annotations

from typing import Any

from llamafw import App, Call, RequestError
from llamafw_plugins.endpoints.embed_texts import TextVectors, embed_field, embedding_usage_json
from llamafw_plugins.endpoints.embedding_fields import (
    add_prefix,
    choose_dimensions,
    choose_embedder,
    choose_one_vector_pooling,
    choose_pooling,
    choose_prefix,
    norm_order,
    read_limit,
)
from llamafw_plugins.endpoints.openai_tokens import texts_of_openai_tokens
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.unsupported import refuse_generation_fields
from llamafw_plugins.endpoints.vectors import ENCODINGS, scale_vectors

ADVICE = "use /embedding, or start the server with another --pooling"


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

        settings, loaded = self.app.settings, choose_embedder(self.app, body.get("model"))
        dimensions = choose_dimensions(body, loaded, settings)
        pooling = choose_pooling(loaded, settings.pooling)
        prefix = choose_prefix(body.get("input_type"), loaded, settings, "input_type")
        (field,) = fields
        value = add_prefix(plain_texts(body[field]), prefix)
        embeddings = await embed_field(self.app, loaded, value, field, pooling, read_limit(body))

        p, encode = norm_order(body, pooling, settings.embd_normalize), ENCODINGS[read_encoding(body)]
        rows = []
        for i, embedding in enumerate(embeddings):
            vectors = [encode(vector) for vector in scale_vectors(embedding.vectors[:, :dimensions], p)]
            rows.append({"index": i, "embedding": vectors if pooling == "none" else vectors[0]})
        return rows if len(rows) > 1 else rows[0]

    async def create_openai(self, call: Call) -> JSON:
        """Return an object with a list of embeddings, even for one text."""
        body, settings = call.body, self.app.settings
        refuse_generation_fields(body)
        refuse_late_chunking(body)
        loaded = choose_embedder(self.app, body.get("model"))
        dimensions = choose_dimensions(body, loaded, settings)
        pooling = choose_one_vector_pooling(loaded, settings.pooling, ADVICE)
        task_field = "task" if body.get("input_type") is None else "input_type"
        prefix = choose_prefix(body.get(task_field), loaded, settings, task_field)
        encoding = read_encoding(body)

        value = add_prefix(await texts_of_openai_tokens(plain_texts(body["input"]), body.get("model")), prefix)
        embeddings = await embed_field(self.app, loaded, value, "input", pooling, read_limit(body))
        p = -1 if body.get("normalized") is False else norm_order(body, pooling, settings.embd_normalize)
        data = [
            {"object": "embedding", "index": i, "embedding": encode_vector(embedding, dimensions, p, encoding)}
            for i, embedding in enumerate(embeddings)
        ]
        return {
            "object": "list",
            "model": body.get("model") or loaded.name,
            "data": data,
            "usage": embedding_usage_json(embeddings),
        }


def refuse_late_chunking(body: JSON) -> None:
    """Raise RequestError if a request asks for one vector per text of a shared context."""
    if body.get("late_chunking"):
        message = "late_chunking is not supported: each text is embedded by itself; use truncate: split for long texts"
        raise RequestError(message, param="late_chunking")


def read_encoding(body: JSON) -> str:
    """Return the name of the encoding of vectors: Jina's ``embedding_type``, else OpenAI's ``encoding_format``."""
    name: str | None = body.get("embedding_type")
    return name or body.get("encoding_format") or "float"


def encode_vector(embedding: TextVectors, dimensions: int | None, p: int, encoding: str) -> Any:
    """Return the vector of a text, shortened, then scaled, then encoded."""
    return ENCODINGS[encoding](scale_vectors(embedding.vectors[:, :dimensions], p)[0])


def plain_texts(value: Any) -> Any:
    """Return the texts of a request with each of Jina's objects, ``{"text": …}``, replaced by its text.

    llama-server's objects, with a ``prompt_string``, stay as they are, whatever other members they have.
    """
    if isinstance(value, dict) and "prompt_string" not in value:
        return value["text"]
    return [plain_texts(item) for item in value] if isinstance(value, list) and dict in set(map(type, value)) else value
