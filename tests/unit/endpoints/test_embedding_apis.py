"""The operations of Text Embeddings Inference and Cohere."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from llamafw.engine.dense_layers import DenseLayer
from llamafw.engine.rank_head import RankHead
from support.toy_model import BOS, EOS, N_EMBD, random_logits
from unit.endpoints.conftest import Open

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

LONG = "abcdefghij" * 8  # 80 tokens in a context of 64
HEAD = RankHead(None, DenseLayer(np.eye(1, N_EMBD), np.zeros(1)))
METADATA = {
    "general.architecture": "toy",
    "toy.matryoshka_dimensions": [4],
    "sentence_transformers.prompts.query": "Q:",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(opened: Open) -> Any:
    """Yield a client of a server that embeds and reranks."""
    async with opened(metadata=METADATA, pooling="mean", rank_head=HEAD, reranking=True) as client:
        yield client


def states(text: str) -> Any:
    ids = list(text.encode())
    return np.array([random_logits(ids[: i + 1])[:N_EMBD] for i in range(len(ids))])


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.inventory("T-16")
async def test_tei_embeds_texts(model: httpx.AsyncClient) -> None:
    one = await post(model, "/embed", inputs="Hello")
    np.testing.assert_allclose(one, [unit(states("Hello").mean(axis=0))], rtol=1e-4)
    several = await post(model, "/embed", inputs=["ab", list(b"c")], prompt_name="query", dimensions=4)
    np.testing.assert_allclose(several[0], unit(states("Q:ab").mean(axis=0)[:4]), rtol=1e-4)
    np.testing.assert_allclose(several[1], unit(states("c").mean(axis=0)[:4]), rtol=1e-4)
    raw = await post(model, "/embed", inputs="ab", normalize=False)
    np.testing.assert_allclose(raw, [states("ab").mean(axis=0)], rtol=1e-4)


async def test_tei_cuts_texts_on_request(model: httpx.AsyncClient) -> None:
    left = await post(model, "/embed", inputs=LONG, truncate=True, truncation_direction="Left")
    np.testing.assert_allclose(left, [unit(states(LONG[-64:]).mean(axis=0))], rtol=1e-4)
    right = await post(model, "/embed", inputs=LONG, truncate=True)
    np.testing.assert_allclose(right, [unit(states(LONG[:64]).mean(axis=0))], rtol=1e-4)


async def test_tei_root_embeds_or_reranks(model: httpx.AsyncClient) -> None:
    inputs = {"inputs": ["ab", list(b"c")], "prompt_name": "query", "normalize": False}
    assert await post(model, "/", **inputs) == await post(model, "/embed", **inputs)
    texts = {"query": "q", "texts": ["a", "b", "c"], "return_text": True, "raw_scores": True}
    ranking = await post(model, "/", **texts)
    assert ranking == await post(model, "/rerank", **texts)
    assert {result["text"] for result in ranking} == {"a", "b", "c"}


async def test_tei_embeds_tokens(model: httpx.AsyncClient) -> None:
    (rows,) = await post(model, "/embed_all", inputs="abc")
    np.testing.assert_allclose(rows, states("abc"), rtol=1e-4)


async def test_tei_compares_sentences(model: httpx.AsyncClient) -> None:
    inputs = {"source_sentence": "ab", "sentences": ["ab", "cd"]}
    same, other = await post(model, "/similarity", inputs=inputs)
    assert same == pytest.approx(1)
    assert other == pytest.approx(float(unit(states("ab").mean(axis=0)) @ unit(states("cd").mean(axis=0))), abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/embed", {"inputs": ["a", ""]}, "inputs.1 must have at least 1 character"),
        ("/embed", {"inputs": ["a"] * 2049}, "inputs must have at most 2048 elements"),
        ("/embed", {"inputs": ["a", LONG]}, "inputs.1 is too large to embed: it has 80 tokens"),
        ("/embed", {}, "inputs is required"),
        ("/", {}, 'either "inputs", or "query" and "texts" must be provided'),
        (
            "/",
            {"inputs": "a", "query": "q", "texts": ["a"]},
            'either "inputs", or "query" and "texts" must be provided',
        ),
        ("/", {"query": "q"}, 'either "inputs", or "query" and "texts" must be provided'),
        ("/", {"inputs": ["a", ""]}, "inputs.1 must have at least 1 character"),
        ("/", {"query": "q", "texts": []}, "texts must have at least 1 element"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, "inputs.sentences must have at least 1"),
    ],
)
async def test_errors_have_teis_form(model: httpx.AsyncClient, path: str, body: Any, message: str) -> None:
    response = await model.post(path, json=body)
    error = response.json()
    assert (response.status_code, error["error_type"]) == (400, "Validation")
    assert message in error["error"]


async def test_cohere_embeds_texts(model: httpx.AsyncClient) -> None:
    body = {"model": "embed-v4.0", "texts": ["Hello", LONG], "input_type": "search_document"}
    first = await post(model, "/v1/embed", **body)
    expected = [unit(states(text[:64]).mean(axis=0)) for text in body["texts"]]
    np.testing.assert_allclose(first["embeddings"], expected, rtol=1e-4)
    assert (first["response_type"], first["texts"]) == ("embeddings_floats", body["texts"])
    assert first["meta"]["billed_units"] == {"input_tokens": 5 + 64}

    types = ["float", "base64", "ubinary"]
    second = await post(model, "/v2/embed", **body, embedding_types=types, output_dimension=4)
    assert second["response_type"] == "embeddings_by_type"
    short = [unit(states(text[:64]).mean(axis=0)[:4]).astype(np.float32) for text in body["texts"]]
    np.testing.assert_allclose(second["embeddings"]["float"], short, rtol=1e-4)
    packed = [np.frombuffer(base64.b64decode(text), "<f4") for text in second["embeddings"]["base64"]]
    np.testing.assert_allclose(packed, short, rtol=1e-4)
    assert second["embeddings"]["ubinary"] == [np.packbits(vector > 0).tolist() for vector in short]

    parts = [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    third = await post(model, "/v2/embed", inputs=parts, input_type="search_query", max_tokens=4)
    np.testing.assert_allclose(third["embeddings"]["float"], [unit(states("Q:a\n").mean(axis=0))], rtol=1e-4)


async def test_cohere_reranks(model: httpx.AsyncClient) -> None:
    documents = ["a", "bc", "d" * 99]
    response = await post(model, "/v2/rerank", query="q", documents=documents, top_n=2, model="rerank-v3.5")
    cut = [text[:60] for text in documents]
    scores = [float(random_logits([BOS, *b"q", EOS, *text.encode(), EOS])[0]) for text in cut]
    order = sorted(range(3), key=lambda i: -scores[i])[:2]
    assert [row["index"] for row in response["results"]] == order
    expected = [1 / (1 + np.exp(-scores[i])) for i in order]
    assert [row["relevance_score"] for row in response["results"]] == pytest.approx(expected)
    assert response["meta"]["billed_units"]["input_tokens"] == sum(4 + len(text) for text in cut)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v2/embed", {"texts": ["a", ""]}, "texts.1 must have at least 1 character"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": ["int8"]}, "int8 embeddings need a scale"),
        ("/v2/embed", {}, 'either "texts" or "inputs" must be provided'),
        ("/v2/embed", {"images": ["data:"]}, "images must have at most 0 elements"),
        ("/v1/embed", {"texts": [LONG], "truncate": "NONE"}, "texts.0 is too large to embed"),
        ("/v2/rerank", {"query": "q", "documents": []}, "documents must have at least 1 element"),
    ],
)
async def test_errors_have_coheres_form(model: httpx.AsyncClient, path: str, body: Any, message: str) -> None:
    response = await model.post(path, json=body)
    assert response.status_code == 400
    assert message in response.json()["message"]


# --- requests as libraries send them


@pytest.mark.inventory("T-15", "T-16")
@pytest.mark.client(
    "LangChain", "OpenAIEmbeddings.embed_documents", "CohereEmbeddings.embed_query", "CohereRerank.rerank"
)
async def test_requests_of_langchain_are_answered(model: httpx.AsyncClient) -> None:
    body = {"model": "text-embedding-3-small", "input": ["hello"], "dimensions": 4, "encoding_format": "base64"}
    (row,) = (await post(model, "/v1/embeddings", **body))["data"]
    expected = unit(states("hello").mean(axis=0)[:4])
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(row["embedding"]), "<f4"), expected, rtol=1e-4)
    body = {"texts": ["ab"], "model": "embed-english-v3.0", "input_type": "search_query", "embedding_types": ["float"]}
    found = await post(model, "/v1/embed", **body, truncate=None)
    np.testing.assert_allclose(found["embeddings"]["float"], [unit(states("Q:ab").mean(axis=0))], rtol=1e-4)
    body = {"model": "rerank-v3.5", "query": "q", "documents": ["a", "b", "c"], "top_n": 2, "max_tokens_per_doc": None}
    assert len((await post(model, "/v2/rerank", **body))["results"]) == 2


@pytest.mark.client(
    "LlamaIndex", "OpenAIEmbedding.get_text_embedding_batch", "TextEmbeddingsInference.get_text_embedding"
)
async def test_requests_of_llama_index_are_answered(model: httpx.AsyncClient) -> None:
    body = {"model": "text-embedding-ada-002", "input": ["hello", "x"], "encoding_format": "base64"}
    rows = (await post(model, "/v1/embeddings", **body))["data"]
    vectors = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]
    np.testing.assert_allclose(vectors, [unit(states(text).mean(axis=0)) for text in ("hello", "x")], rtol=1e-4)
    found = await post(model, "/embed", inputs=["hello", "x"], truncate=True)
    np.testing.assert_allclose(found, vectors, rtol=1e-4)


@pytest.mark.client("Cohere, Python", "Client.embed", "Client.rerank", "ClientV2.embed", "ClientV2.rerank")
async def test_requests_of_cohere_are_answered(model: httpx.AsyncClient) -> None:
    body = {"texts": ["a", "b"], "model": "m", "input_type": "search_document", "embedding_types": ["float"]}
    first, second = await post(model, "/v1/embed", **body), await post(model, "/v2/embed", **body)
    assert first["embeddings"] == second["embeddings"]
    documents = [{"text": "a"}, {"text": "b"}]
    whole = await post(model, "/v1/rerank", model="r", query="q", documents=documents, return_documents=True)
    assert [row["document"] for row in whole["results"]] == [documents[row["index"]] for row in whole["results"]]
    best = await post(model, "/v2/rerank", model="r", query="q", documents=["a", "b"], top_n=1)
    assert best["results"][0]["index"] == whole["results"][0]["index"]


@pytest.mark.client("Hugging Face, Python", "InferenceClient.feature_extraction", "InferenceClient.sentence_similarity")
async def test_requests_of_the_hugging_face_client_are_answered(model: httpx.AsyncClient) -> None:
    np.testing.assert_allclose(await post(model, "/embed", inputs="ab"), [unit(states("ab").mean(axis=0))], rtol=1e-4)
    inputs = {"source_sentence": "hello", "sentences": ["hello", "x"]}
    assert (await post(model, "/similarity", inputs=inputs, parameters={}))[0] == pytest.approx(1)
