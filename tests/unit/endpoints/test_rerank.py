"""POST /rerank and its aliases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llamafw.engine.dense_layers import DenseLayer
from llamafw.engine.rank_head import RankHead
from llamafw_plugins.endpoints.rerank import as_shares
from support.toy_model import BOS, EOS, HELLO, N_EMBD, ToyBackend, random_logits
from unit.endpoints.conftest import Open

pytestmark = pytest.mark.slow

NO_RANK_HEAD = "this model cannot rerank: it has no rank head"
GOOD: dict[str, Any] = {"query": "q", "documents": ["a", "b"], "top_n": 1}
INVALID: list[tuple[dict[str, Any], str]] = [  # changes to the good request, and the param of the error
    ({"query": None}, "query"),
    ({"query": 5}, "query"),
    ({"documents": []}, "documents"),
    ({"documents": "a"}, "documents"),
    ({"documents": [5]}, "documents.0"),
    ({"documents": None}, "documents"),
    ({"texts": ["a"]}, "documents"),
    ({"top_n": 0}, "top_n"),
]


@pytest.mark.inventory("E-160", "R-19", "T-16")
@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
async def test_invalid_requests_are_400(opened: Open, path: str) -> None:
    async with opened(reranking=True) as client:
        for change, param in INVALID:
            error = (await client.post(path, json={**GOOD, **change})).json()["error"]
            assert (error["code"], error["param"]) == (400, param), error


@pytest.mark.inventory("E-163", "C-107", "D-14", "R-06", "B-03")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "This server does not support reranking. Start it with `--reranking`"),
        ({"embedding": True, "pooling": "mean"}, "This server does not support reranking. Start it with `--reranking`"),
        ({"reranking": True}, NO_RANK_HEAD),
        ({"embedding": True, "pooling": "rank"}, NO_RANK_HEAD),
    ],
)
async def test_reranking_needs_a_flag_and_a_rank_head(opened: Open, settings: dict[str, Any], message: str) -> None:
    async with opened(**settings) as client:
        error = (await client.post("/rerank", json=GOOD)).json()["error"]
    assert (error["code"], error["type"], error["message"]) == (501, "not_supported_error", message)


# --- a model with a rank head: the score of a prompt is the first number of its last hidden state


HEAD = RankHead(None, DenseLayer(np.eye(1, N_EMBD), np.zeros(1)))
SEP = HELLO  # it could be any token
DOCUMENTS = ["a", "bc", "", "a <b>"]


def expected_scores(query: str, documents: list[str], separator: list[int]) -> list[float]:
    """Return the scores in the order of the documents."""
    prompts = [[BOS, *query.encode(), EOS, *separator, *text.encode(), EOS] for text in documents]
    return [float(random_logits(prompt)[0]) for prompt in prompts]


@pytest.mark.inventory("E-161")
@pytest.mark.parametrize(
    ("metadata", "separator"),
    [
        ({}, []),
        ({"tokenizer.ggml.seperator_token_id": SEP}, [SEP]),
        ({"tokenizer.ggml.separator_token_id": SEP}, [SEP]),
    ],
)
async def test_prompt_has_the_query_and_the_document(opened: Open, metadata: Any, separator: list[int]) -> None:
    backend = ToyBackend(n_slots=2)
    async with opened(reranking=True, rank_head=HEAD, backend=backend, metadata=metadata) as client:
        response = (await client.post("/rerank", json={"query": "q?", "documents": ["ab"]})).json()
        assert backend.slots[0] == [BOS, *b"q?", EOS, *separator, *b"ab", EOS]
        assert response["results"][0]["relevance_score"] == pytest.approx(expected_scores("q?", ["ab"], separator)[0])


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
async def test_rank_fields_choose_the_members_of_documents(opened: Open, path: str) -> None:
    documents = [
        {"title": "ab", "text": "c", "year": 1999, "tags": ["é", 2]},
        {"text": "d"},
        "e",
        {"title": "f"},
    ]
    body = {"query": "q", "documents": documents, "rank_fields": ["year", "tags", "title", "text"]}
    texts = ['1999\n["é", 2]\nab\nc', "d", "e", "f"]
    async with opened(reranking=True, rank_head=HEAD) as client:
        response = (await client.post(path, json={**body, "return_documents": True, "return_text": True})).json()
        rows = sorted(response["results"], key=lambda row: row["index"])
        assert [row["text"] for row in rows] == texts
        assert [row["document"] for row in rows] == [*documents[:2], {"text": "e"}, documents[3]]
        assert [row["relevance_score"] for row in rows] == pytest.approx(expected_scores("q", texts, []))
        tei = (await client.post(path, json={"query": "q", "texts": documents[:2], "rank_fields": ["text"]})).json()
        assert [row["index"] for row in sorted(tei, key=lambda row: row["index"])] == [0, 1]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"rank_fields": ["title", "y"]}, "documents.1", "documents.1 has no member of rank_fields: title, y"),
        ({"rank_fields": ["title"]}, "documents.1.title", "documents.1.title is required"),
        ({"rank_fields": []}, "rank_fields", None),
        ({"rank_fields": "title"}, "rank_fields", None),
        ({"rank_fields": [5]}, "rank_fields.0", None),
    ],
)  # fmt: skip
async def test_rank_fields_that_a_document_does_not_have_are_400(
    opened: Open, change: Any, param: str, message: str | None
) -> None:
    body = {"query": "q", "documents": [{"title": "a"}, {"text": "b"}]}
    async with opened(reranking=True, rank_head=HEAD) as client:
        error = (await client.post("/rerank", json={**body, **change})).json()["error"]
    assert (error["code"], error["param"]) == (400, param), error
    assert message is None or error["message"] == message


async def test_rank_fields_are_unknown_to_the_second_version_of_cohere(opened: Open) -> None:
    body = {"model": "m", "query": "q", "documents": ["a"], "rank_fields": ["title"]}
    for strict, status in ((False, 200), (True, 400)):
        async with opened(reranking=True, rank_head=HEAD, strict_fields=strict) as client:
            response = await client.post("/v2/rerank", json=body)
        assert response.status_code == status, response.text
        assert strict or response.headers["x-llamafw-ignored-fields"] == "rank_fields"
        assert not strict or "rank_fields" in response.json()["message"]


@pytest.mark.inventory("E-162", "T-16", "F-19", "D-14")
@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
async def test_results_are_sorted_by_score(opened: Open, path: str) -> None:
    scores = expected_scores("q", DOCUMENTS, [])
    order = sorted(range(4), key=lambda i: -scores[i])
    assert order != [0, 1, 2, 3], "the scores are sorted already, which proves nothing"
    async with opened(embedding=True, pooling="rank", rank_head=HEAD) as client:
        whole = (await client.post(path, json={"query": "q", "documents": DOCUMENTS, "model": "mine"})).json()
        assert [row["index"] for row in whole["results"]] == order
        assert [row["relevance_score"] for row in whole["results"]] == pytest.approx([scores[i] for i in order])
        n = sum(4 + len(text) for text in DOCUMENTS)
        assert whole["usage"] == {"prompt_tokens": n, "total_tokens": n}
        assert (whole["object"], whole["model"]) == ("list", "mine")
        assert set(whole["results"][0]) == {"index", "relevance_score"}

        body = {"query": "q", "documents": DOCUMENTS, "top_n": 2, "return_text": True}
        best = (await client.post(path, json=body)).json()
        assert [row["text"] for row in best["results"]] == [DOCUMENTS[i] for i in order[:2]]
        assert (best["model"], best["usage"]) == ("toy", whole["usage"])  # all documents were scored


@pytest.mark.inventory("T-16")
async def test_texts_get_an_array(opened: Open) -> None:
    scores = expected_scores("q", DOCUMENTS, [])
    async with opened(reranking=True, rank_head=HEAD) as client:
        body = {"query": "q", "texts": DOCUMENTS, "return_text": True, "raw_scores": True}
        rows = (await client.post("/rerank", json=body)).json()
        shares = (await client.post("/rerank", json={**body, "raw_scores": None})).json()
    order = sorted(range(4), key=lambda i: -scores[i])
    assert [(row["index"], row["text"]) for row in rows] == [(i, DOCUMENTS[i]) for i in order]
    assert [row["score"] for row in rows] == pytest.approx(sorted(scores, reverse=True))
    assert [row["score"] for row in shares] == pytest.approx([1 / (1 + np.exp(-row["score"])) for row in rows])


@pytest.mark.inventory("T-16", "E-162")
async def test_fields_of_cohere_and_jina_are_read(opened: Open) -> None:
    scores = expected_scores("q", DOCUMENTS, [])
    best = int(np.argmax(scores))
    body = {
        "query": "q",
        "documents": [{"text": text} for text in DOCUMENTS],
        "top_n": 1,
        "return_documents": True,
        "raw_scores": False,
    }
    async with opened(reranking=True, rank_head=HEAD) as client:
        (row,) = (await client.post("/v1/rerank", json=body)).json()["results"]
    assert (row["index"], row["document"]) == (best, {"text": DOCUMENTS[best]})
    assert row["relevance_score"] == pytest.approx(1 / (1 + np.exp(-scores[best])))


@pytest.mark.parametrize(
    ("architecture", "n_out", "is_share"), [("qwen3", 2, True), ("qwen3", 1, False), ("bert", 2, False)]
)
def test_shares_stay_as_they_are(architecture: str, n_out: int, is_share: bool) -> None:
    head = SimpleNamespace(shape=(n_out, 8))
    model = SimpleNamespace(metadata={"general.architecture": architecture}, tensors={"cls.output.weight": head})
    loaded: Any = SimpleNamespace(model=model)
    assert as_shares([0.0, 0.75], loaded) == pytest.approx([0.0, 0.75] if is_share else [0.5, 0.6791787])


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"truncate": True}, "q" * 60),
        ({"truncate": True, "truncation_direction": "Left"}, "q" * 59 + "e"),
        ({"truncate": "START"}, "q" * 59 + "e"),
        ({"truncate_prompt_tokens": 9}, "q" * 5),
        ({"max_tokens_per_doc": 3}, "qqq"),
    ],
)
async def test_long_documents_are_cut_on_request(opened: Open, fields: dict[str, Any], read: str) -> None:
    backend = ToyBackend(n_slots=2, n_ctx=64)
    async with opened(reranking=True, rank_head=HEAD, backend=backend) as client:
        body = {"query": "a", "documents": ["q" * 70 + "e"]}
        response = (await client.post("/rerank", json={**body, **fields})).json()
        assert backend.slots[0] == [BOS, *b"a", EOS, *read.encode(), EOS]
        assert response["usage"]["prompt_tokens"] == 4 + len(read)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"documents": ["a", "b" * 99]}, "documents.1", "documents.1 is too large to embed: it has 104 tokens"),
        ({"query": "a" * 99}, "query", "the query has 102 tokens, and leaves no room for documents in 64"),
        ({"truncate": "SPLIT"}, "truncate", "truncate must be"),
        ({"documents": [""] * 2049}, "documents", "documents must have at most 2048 elements"),
        ({"documents": [{"title": "a"}]}, "documents.0.text", "documents.0.text is required"),
    ],
)
async def test_errors_name_the_document_and_the_limit(opened: Open, change: Any, param: str, message: str) -> None:
    async with opened(reranking=True, rank_head=HEAD) as client:
        error = (await client.post("/rerank", json={"query": "q?", "documents": ["a"], **change})).json()["error"]
    assert (error["code"], error["param"]) == (400, param)
    assert error["message"].startswith(message)


@pytest.mark.parametrize(("model", "n"), [("gpt2", 2), ("bert", 1)])
async def test_bert_has_one_separator_between_the_texts(opened: Open, model: str, n: int) -> None:
    metadata = {"tokenizer.ggml.model": model, "tokenizer.ggml.seperator_token_id": EOS}
    backend = ToyBackend(n_slots=2)
    async with opened(reranking=True, rank_head=HEAD, backend=backend, metadata=metadata) as client:
        await client.post("/rerank", json={"query": "q", "documents": ["d"]})
    assert backend.slots[0] == [BOS, *b"q", *[EOS] * n, *b"d", EOS]


async def test_a_template_for_reranking_replaces_the_separators(opened: Open) -> None:
    metadata = {"tokenizer.chat_template.rerank": "Query: {query}\nText: {document}\nYes?"}
    backend = ToyBackend(n_slots=2)
    async with opened(reranking=True, rank_head=HEAD, backend=backend, metadata=metadata) as client:
        await client.post("/rerank", json={"query": "q {document}", "documents": ["d"]})
    assert backend.slots[0] == [*b"Query: q {document}\nText: d\nYes?"]


async def test_documents_of_one_request_do_not_fill_the_queue(opened: Open) -> None:
    async with opened(reranking=True, rank_head=HEAD, max_queue=0) as client:
        response = (await client.post("/rerank", json={"query": "q", "documents": ["a"] * 200})).json()
    assert [row["index"] for row in response["results"]] == list(range(200))  # equal scores keep their order
