"""POST /rerank: what is wrong is said before what cannot be done, and a model that can scores pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llamafw.engine.rank_head import Layer, RankHead
from support.toy import BOS, EOS, HELLO, N_EMBD, ToyBackend, noise

NO_HEAD = "this model cannot rerank: it has no rank head"
GOOD: dict[str, Any] = {"query": "q", "documents": ["a", "b"], "top_n": 1}


@pytest.mark.inventory("E-160", "R-19", "T-16")
@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
async def test_wrong_requests(opened: Any, path: str) -> None:
    async with opened(reranking=True) as client:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"query": None}, "query"),
            ({"query": 5}, "query"),
            ({"documents": []}, "documents"),
            ({"documents": "a"}, "documents"),
            ({"documents": [5]}, "documents.0"),
            ({"documents": None}, "documents"),
            ({"texts": ["a"]}, "documents"),
            ({"top_n": 0}, "top_n"),
        ]
        for change, param in wrong:
            error = (await client.post(path, json={**GOOD, **change})).json()["error"]
            assert (error["code"], error["param"]) == (400, param), error


@pytest.mark.inventory("E-163", "C-107", "D-14", "R-06", "B-03")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "This server does not support reranking. Start it with `--reranking`"),
        ({"embedding": True, "pooling": "mean"}, "This server does not support reranking. Start it with `--reranking`"),
        ({"reranking": True}, NO_HEAD),
        ({"embedding": True, "pooling": "rank"}, NO_HEAD),
    ],
)
async def test_what_cannot_be_done(opened: Any, settings: dict[str, Any], message: str) -> None:
    async with opened(**settings) as client:
        error = (await client.post("/rerank", json=GOOD)).json()["error"]
        assert (error["code"], error["type"], error["message"]) == (501, "not_supported_error", message)


# --- a model that can: its score of a prompt is the first number of the hidden state behind it


HEAD = RankHead(None, Layer(np.eye(1, N_EMBD), np.zeros(1)))
SEP = HELLO  # any token will do
DOCUMENTS = ["a", "bc", "", "a <b>"]


def expected(query: str, documents: list[str], separator: list[int]) -> list[float]:
    """The scores, in the documents' order."""
    prompts = [[BOS, *query.encode(), EOS, *separator, *text.encode(), EOS] for text in documents]
    return [float(noise(prompt)[0]) for prompt in prompts]


@pytest.mark.inventory("E-161")
@pytest.mark.parametrize(
    ("metadata", "separator"),
    [
        ({}, []),
        ({"tokenizer.ggml.seperator_token_id": SEP}, [SEP]),
        ({"tokenizer.ggml.separator_token_id": SEP}, [SEP]),
    ],
)
async def test_the_prompt_of_a_pair(opened: Any, metadata: Any, separator: list[int]) -> None:
    backend = ToyBackend(n_slots=2)
    async with opened(reranking=True, rank_head=HEAD, backend=backend, metadata=metadata) as client:
        found = (await client.post("/rerank", json={"query": "q?", "documents": ["ab"]})).json()
        assert backend.slots[0] == [BOS, *b"q?", EOS, *separator, *b"ab", EOS]
        assert found["results"][0]["relevance_score"] == pytest.approx(expected("q?", ["ab"], separator)[0])


@pytest.mark.inventory("E-162", "T-16", "F-19", "D-14")
@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
async def test_the_best_come_first(opened: Any, path: str) -> None:
    scores = expected("q", DOCUMENTS, [])
    order = sorted(range(4), key=lambda i: -scores[i])
    assert order != [0, 1, 2, 3], "the scores prove nothing"
    async with opened(embedding=True, pooling="rank", rank_head=HEAD) as client:
        found = (await client.post(path, json={"query": "q", "documents": DOCUMENTS, "model": "mine"})).json()
        assert [row["index"] for row in found["results"]] == order
        assert [row["relevance_score"] for row in found["results"]] == pytest.approx([scores[i] for i in order])
        n = sum(4 + len(text) for text in DOCUMENTS)
        assert found["usage"] == {"prompt_tokens": n, "total_tokens": n}
        assert (found["object"], found["model"]) == ("list", "mine")
        assert set(found["results"][0]) == {"index", "relevance_score"}
        body = {"query": "q", "documents": DOCUMENTS, "top_n": 2, "return_text": True}
        best = (await client.post(path, json=body)).json()
        assert [row["text"] for row in best["results"]] == [DOCUMENTS[i] for i in order[:2]]
        assert (best["model"], best["usage"]) == ("toy", found["usage"])  # all have been run


@pytest.mark.inventory("T-16")
async def test_texts_are_answered_with_an_array(opened: Any) -> None:
    scores = expected("q", DOCUMENTS, [])
    async with opened(reranking=True, rank_head=HEAD) as client:
        found = (await client.post("/rerank", json={"query": "q", "texts": DOCUMENTS, "return_text": True})).json()
    order = sorted(range(4), key=lambda i: -scores[i])
    assert [(row["index"], row["text"]) for row in found] == [(i, DOCUMENTS[i]) for i in order]
    assert [row["score"] for row in found] == pytest.approx(sorted(scores, reverse=True))


async def test_a_document_that_is_too_long_is_named(opened: Any) -> None:
    async with opened(reranking=True, rank_head=HEAD) as client:
        error = (await client.post("/rerank", json={"query": "q", "documents": ["a", "b" * 99]})).json()["error"]
        assert (error["code"], error["type"], error["param"]) == (400, "exceed_context_size_error", "documents.1")


async def test_more_documents_than_may_wait(opened: Any) -> None:
    """They take turns: one call alone fills no queue."""
    async with opened(reranking=True, rank_head=HEAD, max_queue=0) as client:
        found = (await client.post("/rerank", json={"query": "q", "documents": ["a"] * 200})).json()
        assert [row["index"] for row in found["results"]] == list(range(200))  # equal scores stay in order
