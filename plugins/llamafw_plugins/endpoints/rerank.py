"""POST /rerank and its aliases: score how well documents answer a query, with a model that has a rank head."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamafw import App, Call, LoadedModel, RequestError, Tokenizer
from llamafw_plugins.endpoints.embed_texts import TextTooLarge, embed_all, embedding_usage_json
from llamafw_plugins.endpoints.embedding_fields import TextLimit, choose_reranker, read_limit
from llamafw_plugins.endpoints.prompts import run_in_thread
from llamafw_plugins.endpoints.response_json import JSON

SEPARATOR_KEYS = ("tokenizer.ggml.seperator_token_id", "tokenizer.ggml.separator_token_id")  # GGUF's misspelling first
WITH_SHARES = ("qwen3", "qwen3vl")  # architectures whose score is the share of "yes", if the rank head has two outputs
TEMPLATE_KEY = "tokenizer.chat_template.rerank"  # a text with {query} and {document}, as in Qwen3-Reranker


@dataclass(frozen=True, slots=True)
class Ranking:
    """The scores of documents."""

    scores: list[float]  # any numbers; higher is better
    order: list[int]  # indices of the documents, best first
    usage: JSON  # OpenAI's ``usage``


class RerankEndpoints:
    """The operation `createRerank` and its aliases."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Return the indices and scores of the documents, best first; for ``texts`` in TEI's format, an array."""
        body = call.body
        fields = [field for field in ("documents", "texts") if body.get(field) is not None]
        if len(fields) != 1:
            raise RequestError('either "documents" or "texts" must be provided', param="documents")
        loaded = choose_reranker(self.app, body.get("model"))

        (field,) = fields
        is_tei = field == "texts"
        names = body.get("rank_fields") or ("text",)
        documents = [document_text(document, names, f"{field}.{i}") for i, document in enumerate(body[field])]
        n_document, limit = body.get("max_tokens_per_doc"), read_limit(body)
        ranking = await rank(self.app, loaded, body["query"], documents, field, limit, n_document)
        raw = body.get("raw_scores")
        is_raw = not is_tei if raw is None else raw
        scores = ranking.scores if is_raw else as_shares(ranking.scores, loaded)
        key = "score" if is_tei else "relevance_score"
        results = [
            {"index": i, key: scores[i], **returned_text(documents[i], body[field][i], body)}
            for i in ranking.order[: body.get("top_n")]
        ]
        if is_tei:
            return results
        name = body.get("model") or loaded.name
        return {"object": "list", "model": name, "results": results, "usage": ranking.usage}


async def rank(
    app: App,
    loaded: LoadedModel,
    query: str,
    documents: Sequence[str],
    field: str,
    limit: TextLimit,
    n_document: int | None = None,
) -> Ranking:
    """Return the scores of the documents.

    Parameters
    ----------
    field : str
        The request field of the documents, for error messages.
    limit : TextLimit
        What happens to documents that do not fit into the context together with the query.
    n_document : int, optional
        Number of tokens of each document to read; the others are ignored.
    """
    size = len(query) + sum(map(len, documents))
    prompts, n_first = await run_in_thread(
        lambda: pair_prompts(query, documents, loaded, limit=limit, field=field, n_document=n_document), size
    )
    params = [f"{field}.{i}" for i in range(len(documents))]
    embeddings = await embed_all(app, loaded, prompts, "rank", params, n_first=n_first if has_types(loaded) else None)
    scores = [float(embedding.vectors[0, 0]) for embedding in embeddings]
    order = sorted(range(len(documents)), key=lambda i: -scores[i])
    return Ranking(scores, order, embedding_usage_json(embeddings))


def pair_prompts(
    query: str,
    documents: Sequence[str],
    loaded: LoadedModel,
    *,
    limit: TextLimit = TextLimit(),  # noqa: B008  # frozen
    field: str = "documents",
    n_document: int | None = None,
) -> tuple[list[tuple[int, ...]], int]:
    """Return the prompt of each query and document: BOS, query, EOS, separator, document, EOS.

    The second result is the number of tokens before the document, which is the same for all.

    Special tokens that the model lacks are omitted, and so is a separator that is the same as EOS in a WordPiece
    vocabulary: BERT has one ``[SEP]`` there. If the model has a template for reranking, this is used instead. Special
    tokens in the texts are treated as plain text.
    """
    tokenizer, metadata, n_ctx = loaded.tokenizer, loaded.model.metadata, loaded.engine.n_ctx
    template = metadata.get(TEMPLATE_KEY)
    if isinstance(template, str) and "{query}" in template and "{document}" in template:
        start, end = _template_ends(template, query, tokenizer)
    else:
        separator = next((int(metadata[key]) for key in SEPARATOR_KEYS if key in metadata), None)
        if separator == tokenizer.eos and metadata.get("tokenizer.ggml.model") == "bert":
            separator = None
        eos = _as_list(tokenizer.eos)
        start = [*_as_list(tokenizer.bos), *_encode(query, tokenizer), *eos, *_as_list(separator)]
        end = eos

    size = min(n_ctx, limit.n_tokens or n_ctx)
    room = size - len(start) - len(end)
    if room < 1 and documents:
        message = f"the query has {len(start) + len(end)} tokens, and leaves no room for documents in {size}"
        raise RequestError(message, param="query", extra={"n_prompt_tokens": len(start) + len(end), "n_ctx": n_ctx})
    prompts = []
    for i, document in enumerate(documents):
        tokens = _encode(document, tokenizer)[:n_document]
        if len(tokens) > room:
            if limit.cut == "none":
                raise TextTooLarge(len(start) + len(tokens) + len(end), n_ctx, param=f"{field}.{i}")
            tokens = tokens[-room:] if limit.cut == "start" else tokens[:room]
        prompts.append((*start, *tokens, *end))
    return prompts, len(start)


def has_types(loaded: LoadedModel) -> bool:
    """Return whether the tokens of the document have another type than those of the query, as in BERT.

    RoBERTa has one type, and its tokenizers use no other one if the model has two.
    """
    is_bert = loaded.model.metadata.get("tokenizer.ggml.model") == "bert"
    return is_bert and loaded.graph is not None and loaded.graph.n_types > 1


def document_text(document: Any, names: Sequence[str], param: str) -> str:
    """Return the text of a document, which may be an object, as in Cohere's and Jina's API.

    Parameters
    ----------
    document : str or dict
        The document.
    names : sequence of str
        The members of an object that are scored, in this order; each that it has is a line. Objects in them are JSON.
    param : str
        The request field of the document, for error messages.

    Raises
    ------
    RequestError
        The object has none of the members.
    """
    if isinstance(document, str):
        return document
    values = [document[name] for name in names if document.get(name) is not None]
    if not values and len(names) == 1:
        raise RequestError(f"{param}.{names[0]} is required", param=f"{param}.{names[0]}")
    if not values:
        raise RequestError(f"{param} has no member of rank_fields: {', '.join(names)}", param=param)
    return "\n".join(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)


def returned_text(text: str, document: Any, body: JSON) -> JSON:
    """Return the fields with the document, as the request asks for it: by TEI's name, by Cohere's, or both."""
    found: JSON = {"text": text} if body.get("return_text") else {}
    whole = {"text": document} if isinstance(document, str) else document
    return found | ({"document": whole} if body.get("return_documents") else {})


def as_shares(scores: Sequence[float], loaded: LoadedModel) -> list[float]:
    """Return scores between 0 and 1: the logistic function of scores that can be any numbers."""
    head = loaded.model.tensors.get("cls.output.weight")
    has_shares = loaded.model.metadata.get("general.architecture") in WITH_SHARES
    if has_shares and head is not None and len(head.shape) == 2 and head.shape[0] > 1:
        return list(scores)
    return [sigmoid(score) for score in scores]


def sigmoid(score: float) -> float:
    """Return a score between 0 and 1, computed without overflow."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def _template_ends(template: str, query: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the tokens before and after the document in a template for reranking.

    Special tokens of the template are parsed, those in the query are plain text.
    """
    before, _, after = template.partition("{document}")
    if "{query}" in after:
        raise RequestError("the model's template for reranking has the query after the document", param="query")
    first, _, between = before.partition("{query}")
    start = [*tokenizer.encode(first), *_encode(query, tokenizer), *tokenizer.encode(between)]
    return start, tokenizer.encode(after)


def _as_list(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(text, parse_special=False)
