"""The fields that choose how texts are embedded: prompts, sizes, limits of length, and encodings of vectors."""

from __future__ import annotations

import base64
import sys
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from support.toy_model import BOS, N_EMBD, ToyTokenizerWithBos, random_logits
from unit.endpoints.conftest import Open

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

OPENAI, NATIVE = "/v1/embeddings", "/embedding"
N_CTX = 64
METADATA = {
    "general.architecture": "toy",
    "toy.matryoshka_dimensions": [4, 2, 8],
    "sentence_transformers.prompts.query": "Q:",
    "sentence_transformers.prompts.passage": "D:",
    "sentence_transformers.prompts.clustering": "C:",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(opened: Open) -> Any:
    """Yield a client of a server whose model has prompts, and sizes of shorter embeddings."""
    async with opened(metadata=METADATA, pooling="mean") as client:
        yield client


def mean(tokens: Any, size: int = N_EMBD) -> Any:
    """Return the mean of the hidden states of token ids, shortened, with the length 1."""
    ids = list(tokens.encode()) if isinstance(tokens, str) else list(tokens)
    vector = np.mean([random_logits(ids[: i + 1])[:N_EMBD] for i in range(len(ids))], axis=0)[:size]
    return vector / np.linalg.norm(vector)


async def vector(client: httpx.AsyncClient, path: str = OPENAI, **fields: Any) -> Any:
    """Return the embedding of the first text of a request."""
    response = await client.post(path, json=fields)
    assert response.status_code == 200, response.text
    parsed = response.json()
    return (
        parsed["data"][0]["embedding"]
        if path == OPENAI
        else (parsed[0] if isinstance(parsed, list) else parsed)["embedding"]
    )


async def refusal(client: httpx.AsyncClient, path: str = OPENAI, **fields: Any) -> tuple[int, str, str]:
    """Return the status, the param and the message of an error."""
    error = (await client.post(path, json=fields)).json()["error"]
    return error["code"], error["param"], error["message"]


@pytest.mark.inventory("F-19", "T-15")
@pytest.mark.parametrize("size", [2, 4, N_EMBD])
async def test_dimensions_shorten_vectors_before_they_are_scaled(model: httpx.AsyncClient, size: int) -> None:
    for path in (OPENAI, NATIVE):
        found = await vector(model, path, input="Hello", dimensions=size)
        np.testing.assert_allclose(found, mean("Hello", size), rtol=1e-4)


@pytest.mark.parametrize("path", [OPENAI, NATIVE])
async def test_other_dimensions_are_400_with_those_that_exist(model: httpx.AsyncClient, path: str) -> None:
    message = "embeddings of this model have 8 dimensions and cannot have 3; they can be shortened to 4, 2"
    assert await refusal(model, path, input="a", dimensions=3) == (400, "dimensions", message)


async def test_texts_cannot_be_cut_to_no_tokens(model: httpx.AsyncClient) -> None:
    field, message = "truncate_prompt_tokens", "truncate_prompt_tokens must not be 0"
    assert await refusal(model, input="a", truncate_prompt_tokens=0) == (400, field, message)


async def test_a_flag_sets_the_dimensions_of_models_that_name_none(opened: Open) -> None:
    async with opened(pooling="mean", embd_dimensions=(3,)) as client:
        np.testing.assert_allclose(await vector(client, input="ab", dimensions=3), mean("ab", 3), rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "ab"),
        ({"input_type": "query"}, "Q:ab"),
        ({"input_type": "search_query"}, "Q:ab"),
        ({"input_type": "document"}, "D:ab"),
        ({"input_type": "passage"}, "D:ab"),
        ({"task": "retrieval.query"}, "Q:ab"),
        ({"task": "retrieval.passage"}, "D:ab"),
        ({"task": "clustering"}, "C:ab"),
    ],
)
async def test_the_task_chooses_the_prompt_of_the_model(model: httpx.AsyncClient, fields: Any, text: str) -> None:
    np.testing.assert_allclose(await vector(model, input="ab", **fields), mean(text), rtol=1e-4)
    if "task" not in fields:
        found = await vector(model, NATIVE, content=["ab", "c"], **fields)
        np.testing.assert_allclose(found, mean(text), rtol=1e-4)


async def test_the_default_prompt_of_the_model_is_used(opened: Open) -> None:
    metadata = {**METADATA, "sentence_transformers.default_prompt": "clustering"}
    async with opened(metadata=metadata, pooling="mean") as client:
        np.testing.assert_allclose(await vector(client, input="ab"), mean("C:ab"), rtol=1e-4)
        np.testing.assert_allclose(await vector(client, input="ab", input_type="query"), mean("Q:ab"), rtol=1e-4)


async def test_token_ids_get_no_prompt(model: httpx.AsyncClient) -> None:
    found = await vector(model, input=[list(b"ab"), "c"], input_type="query")
    np.testing.assert_allclose(found, mean("ab"), rtol=1e-4)


async def test_unknown_tasks_are_400_with_those_that_exist(model: httpx.AsyncClient) -> None:
    message = "this model has no prompt for the task 'separation'; it has clustering, document, passage, query"
    assert await refusal(model, input="a", task="separation") == (400, "task", message)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "d ab"),
        ({"input_type": "document"}, "d ab"),
        ({"input_type": "query"}, "q ab"),
        ({"task": "clustering"}, "C:ab"),
    ],
)
async def test_flags_replace_the_prompts_of_the_model(opened: Open, fields: Any, text: str) -> None:
    flags = {"embd_prefix": "d ", "embd_prefix_query": "q "}
    async with opened(metadata=METADATA, pooling="mean", **flags) as client:
        np.testing.assert_allclose(await vector(client, input="ab", **fields), mean(text), rtol=1e-4)


LONG = "abcdefghij" * 8  # 80 tokens


@pytest.mark.inventory("E-155", "T-15")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"truncate": True}, LONG[:N_CTX]),
        ({"truncate": "END"}, LONG[:N_CTX]),
        ({"truncate": "START"}, LONG[-N_CTX:]),
        ({"truncate": True, "truncate_prompt_tokens": 5}, LONG[:5]),
        ({"truncate_prompt_tokens": 7}, LONG[:7]),
        ({"truncate_prompt_tokens": 7, "truncate": "START"}, LONG[-7:]),
        ({"truncate_prompt_tokens": -1}, LONG[:N_CTX]),
    ],
)
async def test_long_texts_are_cut_on_request(model: httpx.AsyncClient, fields: Any, text: str) -> None:
    response = (await model.post(OPENAI, json={"input": LONG, **fields})).json()
    np.testing.assert_allclose(response["data"][0]["embedding"], mean(text), rtol=1e-4)
    assert response["usage"]["prompt_tokens"] == len(text)


async def test_cut_texts_keep_their_special_tokens(opened: Open) -> None:
    async with opened(pooling="mean", tokenizer=ToyTokenizerWithBos()) as client:
        found = await vector(client, input=LONG, truncate="START", truncate_prompt_tokens=4)
        np.testing.assert_allclose(found, mean([BOS, *LONG[-3:].encode()]), rtol=1e-4)
        status, param, _ = await refusal(client, input=LONG, truncate_prompt_tokens=1)
        assert (status, param) == (400, "truncate_prompt_tokens")


async def test_split_texts_get_the_weighted_mean_of_their_parts(model: httpx.AsyncClient) -> None:
    parts = [LONG[:N_CTX], LONG[N_CTX:]]
    raw = [
        np.mean([random_logits(list(part.encode())[: i + 1])[:N_EMBD] for i in range(len(part))], axis=0) * len(part)
        for part in parts
    ]
    total = np.sum(raw, axis=0)
    found = await vector(model, input=LONG, truncate="SPLIT")
    np.testing.assert_allclose(found, total / np.linalg.norm(total), rtol=1e-4)


@pytest.mark.parametrize("path", [OPENAI, NATIVE])
async def test_long_texts_are_400_with_the_text_and_the_limit(model: httpx.AsyncClient, path: str) -> None:
    error = (await model.post(path, json={"input": ["a", LONG], "truncate": False})).json()["error"]
    assert (error["code"], error["param"], error["n_prompt_tokens"], error["n_ctx"]) == (400, "input.1", 80, N_CTX)
    assert error["message"].startswith("input.1 is too large to embed: it has 80 tokens, but")


@pytest.mark.parametrize("name", ["float", "base64", "binary", "ubinary"])
async def test_vectors_have_the_encodings_of_jina(model: httpx.AsyncClient, name: str) -> None:
    found, expected = await vector(model, input="Hello", embedding_type=name), mean("Hello").astype(np.float32)
    bits = sum(int(value > 0) << (7 - i) for i, value in enumerate(expected))
    if name in ("float", "base64"):
        values = found if name == "float" else np.frombuffer(base64.b64decode(found), "<f4")
        np.testing.assert_allclose(values, expected, rtol=1e-4)
    else:
        assert found == ([bits] if name == "ubinary" else [bits - 128])


async def test_jinas_other_fields_are_read(model: httpx.AsyncClient) -> None:
    objects = await vector(model, input=[{"text": "ab"}, "c"])
    np.testing.assert_allclose(objects, mean("ab"), rtol=1e-4)
    native = await vector(model, NATIVE, content=[{"text": "ab"}, {"prompt_string": "c"}])
    np.testing.assert_allclose(native, mean("ab"), rtol=1e-4)
    raw = np.array(await vector(model, input="ab", normalized=False))
    np.testing.assert_allclose(raw / np.linalg.norm(raw), mean("ab"), rtol=1e-4)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=1e-3)
    status, param, message = await refusal(model, input="a", late_chunking=True)
    assert (status, param) == (400, "late_chunking")
    assert message.startswith("late_chunking is not supported")


# --- token ids of OpenAI's tokenizer, which LangChain sends by default


OPENAI_IDS = [[15339, 1917], [9906]]


async def test_openais_token_ids_are_refused_without_their_tokenizer(
    model: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    status, param, message = await refusal(model, input=OPENAI_IDS, model="text-embedding-ada-002")
    assert (status, param) == (400, "input")
    assert "check_embedding_ctx_length=False" in message


async def test_openais_token_ids_are_decoded_with_their_tokenizer(
    model: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {15339: "hello", 1917: " world", 9906: "Hello"}  # of cl100k_base

    class Encoding:
        def decode(self, ids: list[int]) -> str:
            return "".join(texts[token] for token in ids)

    module: Any = ModuleType("tiktoken")
    module.get_encoding = {"cl100k_base": Encoding()}.__getitem__
    monkeypatch.setitem(sys.modules, "tiktoken", module)
    found = await vector(model, input=OPENAI_IDS, model="text-embedding-ada-002")
    np.testing.assert_allclose(found, mean("hello world"), rtol=1e-4)
    one = await vector(model, input=OPENAI_IDS[1], model="text-embedding-3-small", input_type="query")
    np.testing.assert_allclose(one, mean("Q:Hello"), rtol=1e-4)
    own = await vector(model, input=[list(b"ab")], model="mine")
    np.testing.assert_allclose(own, mean("ab"), rtol=1e-4)
    status, _, message = await refusal(model, input=[[1]], model="text-embedding-ada-002")
    assert (status, message.split(":")[0]) == (400, "the token ids are not those of text-embedding-ada-002")
