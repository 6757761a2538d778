"""POST /rerank and its aliases: how well documents answer a query, by a model with a rank head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafw import App, Call, LoadedModel, NotSupported, RequestError, Tokenizer
from llamafw_plugins.endpoints.embeddings import embed_all
from llamafw_plugins.endpoints.prompts import aside
from llamafw_plugins.endpoints.shapes import JSON

SEPARATOR = ("tokenizer.ggml.seperator_token_id", "tokenizer.ggml.separator_token_id")  # GGUF's spelling comes first


class Rerank:
    """The operations `createRerank` and its aliases."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer with numbers and scores of the documents, best first; with ``texts``, in the shape of TEI."""
        body, settings, loaded = call.body, self.app.settings, self.app.loaded
        given = [field for field in ("documents", "texts") if body.get(field) is not None]
        if len(given) != 1:
            raise RequestError('either "documents" or "texts" must be provided', param="documents")
        if not (settings.reranking or (settings.embedding and settings.pooling == "rank")):
            raise NotSupported("This server does not support reranking. Start it with `--reranking`")
        documents: list[str] = body[given[0]]
        size = len(body["query"]) + sum(map(len, documents))
        prompts = await aside(lambda: pairs(body["query"], documents, loaded), size)
        found = await embed_all(self.app, prompts, "rank", [f"{given[0]}.{i}" for i in range(len(documents))])
        scores = [float(one.vectors[0, 0]) for one in found]
        best = sorted(range(len(documents)), key=lambda i: -scores[i])[: body.get("top_n")]
        key = "score" if given == ["texts"] else "relevance_score"
        results = [{"index": i, key: scores[i], **text_of(documents[i], body)} for i in best]
        if given == ["texts"]:
            return results
        n = sum(one.n_prompt for one in found)
        usage = {"prompt_tokens": n, "total_tokens": n}
        return {"object": "list", "model": body.get("model") or loaded.name, "results": results, "usage": usage}


def pairs(query: str, documents: Sequence[str], loaded: LoadedModel) -> list[tuple[int, ...]]:
    """Return the prompt of each pair: BOS, query, EOS, separator, document, EOS, as far as the model has them.

    Special tokens in the texts are plain text.
    """
    tokenizer, metadata = loaded.tokenizer, loaded.model.metadata
    separator = next((int(metadata[key]) for key in SEPARATOR if key in metadata), None)
    eos = _known(tokenizer.eos)
    start = [*_known(tokenizer.bos), *_plain(query, tokenizer), *eos, *_known(separator)]
    return [(*start, *_plain(document, tokenizer), *eos) for document in documents]


def text_of(document: str, body: JSON) -> JSON:
    """Return the document, if it is to be returned."""
    return {"text": document} if body.get("return_text") else {}


def _known(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _plain(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(text, parse_special=False)
