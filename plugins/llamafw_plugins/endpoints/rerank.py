"""POST /rerank and its aliases: score how well documents answer a query, with a model that has a rank head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafw import App, Call, LoadedModel, NotSupported, RequestError, Tokenizer
from llamafw_plugins.endpoints.embeddings import embed_all, embedding_usage_json
from llamafw_plugins.endpoints.prompts import run_in_thread
from llamafw_plugins.endpoints.response_json import JSON

SEPARATOR_KEYS = ("tokenizer.ggml.seperator_token_id", "tokenizer.ggml.separator_token_id")  # GGUF's misspelling first


class RerankEndpoints:
    """The operation `createRerank` and its aliases."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Return the indices and scores of the documents, best first; for ``texts`` in TEI's format, an array."""
        body, settings, loaded = call.body, self.app.settings, self.app.loaded
        fields = [field for field in ("documents", "texts") if body.get(field) is not None]
        if len(fields) != 1:
            raise RequestError('either "documents" or "texts" must be provided', param="documents")
        if not (settings.reranking or (settings.embedding and settings.pooling == "rank")):
            raise NotSupported("This server does not support reranking. Start it with `--reranking`")

        (field,) = fields
        documents: list[str] = body[field]
        size = len(body["query"]) + sum(map(len, documents))
        prompts = await run_in_thread(lambda: pair_prompts(body["query"], documents, loaded), size)
        embeddings = await embed_all(self.app, prompts, "rank", [f"{field}.{i}" for i in range(len(documents))])
        scores = [float(embedding.vectors[0, 0]) for embedding in embeddings]
        best = sorted(range(len(documents)), key=lambda i: -scores[i])[: body.get("top_n")]

        key = "score" if field == "texts" else "relevance_score"
        results = [{"index": i, key: scores[i], **returned_text(documents[i], body)} for i in best]
        if field == "texts":
            return results
        return {
            "object": "list",
            "model": body.get("model") or loaded.name,
            "results": results,
            "usage": embedding_usage_json(embeddings),
        }


def pair_prompts(query: str, documents: Sequence[str], loaded: LoadedModel) -> list[tuple[int, ...]]:
    """Return the prompt of each query and document: BOS, query, EOS, separator, document, EOS.

    Special tokens that the model lacks are omitted. Special tokens in the texts are treated as plain text.
    """
    tokenizer, metadata = loaded.tokenizer, loaded.model.metadata
    separator = next((int(metadata[key]) for key in SEPARATOR_KEYS if key in metadata), None)
    eos = _as_list(tokenizer.eos)
    start = [*_as_list(tokenizer.bos), *_encode(query, tokenizer), *eos, *_as_list(separator)]
    return [(*start, *_encode(document, tokenizer), *eos) for document in documents]


def returned_text(document: str, body: JSON) -> JSON:
    """Return the field with the document's text, if the request asks for it."""
    return {"text": document} if body.get("return_text") else {}


def _as_list(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(text, parse_special=False)
