"""POST /v1/embed, /v2/embed and /v2/rerank: Cohere's operations.

The API is described at https://docs.cohere.com/reference. Texts that are too long lose their ends unless `truncate`
says otherwise, and scores are between 0 and 1.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from llamafw import App, Call, RequestError
from llamafw_plugins.endpoints.embed_texts import TextVectors, embed_field
from llamafw_plugins.endpoints.embedding_fields import (
    TextLimit,
    add_prefix,
    choose_dimensions,
    choose_embedder,
    choose_one_vector_pooling,
    choose_prefix,
    choose_reranker,
    norm_order,
    read_limit,
)
from llamafw_plugins.endpoints.rerank import as_shares, document_text, rank
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.vectors import ENCODINGS, as_numbers, scale_vectors

MAX_TOKENS_PER_DOC = 4096  # of documents to rerank, unless the request says otherwise
ADVICE = "start the server with another --pooling"


class CohereEndpoints:
    """The operations `createCohereEmbeddingsV1`, `createCohereEmbeddingsV2` and `createCohereRerankV2`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def embed_v1(self, call: Call) -> JSON:
        """Return the vectors as arrays of numbers, or by type if the request names types."""
        return await self._embed(call.body, version="1")

    async def embed_v2(self, call: Call) -> JSON:
        """Return the vectors by type."""
        return await self._embed(call.body, version="2")

    async def rerank(self, call: Call) -> JSON:
        """Return the indices and scores of the documents, best first."""
        body, loaded = call.body, choose_reranker(self.app, call.body.get("model"))
        documents = [document_text(one, ("text",), f"documents.{i}") for i, one in enumerate(body["documents"])]
        n_document = body.get("max_tokens_per_doc") or MAX_TOKENS_PER_DOC
        ranking = await rank(self.app, loaded, body["query"], documents, "documents", TextLimit("end"), n_document)
        best, shares = ranking.order[: body.get("top_n")], as_shares(ranking.scores, loaded)
        return {
            "id": str(uuid4()),
            "results": [{"index": i, "relevance_score": shares[i]} for i in best],
            "meta": meta_json("2", ranking.usage["prompt_tokens"]),
        }

    async def _embed(self, body: JSON, version: str) -> JSON:
        field, texts = read_texts(body)
        settings, loaded = self.app.settings, choose_embedder(self.app, body.get("model"))
        types = body.get("embedding_types") or (["float"] if version == "2" else [])
        refuse_integer_types(types)
        dimensions = choose_dimensions(body, loaded, settings, "output_dimension")
        pooling = choose_one_vector_pooling(loaded, settings.pooling, ADVICE)
        prefix = choose_prefix(body.get("input_type"), loaded, settings, "input_type")
        limit = read_limit({"truncate": "END"} if body.get("truncate") is None else body)
        limit = TextLimit(limit.cut, body.get("max_tokens"))

        embeddings = await embed_field(self.app, loaded, add_prefix(texts, prefix), field, pooling, limit)
        p = norm_order({}, pooling, settings.embd_normalize)
        vectors = [scale_vectors(embedding.vectors[:, :dimensions], p)[0] for embedding in embeddings]
        by_type: Any = {name: [ENCODINGS[name](vector) for vector in vectors] for name in types}
        return {
            "id": str(uuid4()),
            "texts": texts,
            "embeddings": by_type if types else [as_numbers(vector) for vector in vectors],
            "response_type": "embeddings_by_type" if types else "embeddings_floats",
            "meta": meta_json(version, count_tokens(embeddings)),
        }


def read_texts(body: JSON) -> tuple[str, list[str]]:
    """Return the name of the field with the texts of a request, and the texts."""
    given = [field for field in ("texts", "inputs") if body.get(field) is not None]
    if len(given) != 1:
        raise RequestError('either "texts" or "inputs" must be provided', param="texts")
    if given == ["texts"]:
        return "texts", body["texts"]
    return "inputs", ["\n".join(part["text"] for part in item["content"]) for item in body["inputs"]]


def refuse_integer_types(types: list[str]) -> None:
    """Raise RequestError for bytes per dimension, whose scale only Cohere's models have."""
    for i, name in enumerate(types):
        if name not in ENCODINGS:
            message = (
                f"{name} embeddings need a scale that this model does not have; use float, base64, binary or ubinary"
            )
            raise RequestError(message, param=f"embedding_types.{i}")


def count_tokens(embeddings: list[TextVectors]) -> int:
    """Return the number of tokens that were evaluated."""
    return sum(embedding.n_prompt for embedding in embeddings)


def meta_json(version: str, n_tokens: int) -> JSON:
    """Return Cohere's ``meta`` of a response."""
    return {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": n_tokens},
        "tokens": {"input_tokens": n_tokens},
    }
