"""POST /embedding and /v1/embeddings.

The toy model's hidden states are a function of the text.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse

from support.toy_model import N_EMBD, ToyTokenizerWithBos, random_logits
from unit.endpoints.conftest import Open

pytestmark = pytest.mark.slow

NATIVE, OPENAI = "/embedding", "/v1/embeddings"


def hidden_states(text: str) -> Any:
    return np.array([random_logits(list(text.encode())[: i + 1])[:N_EMBD] for i in range(len(text.encode()))])


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


async def embed(opened: Open, path: str, body: dict[str, Any], **settings: Any) -> Any:
    async with opened(**settings) as client:
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.mark.inventory("E-150", "E-151", "E-153", "E-157")
@pytest.mark.parametrize("path", [NATIVE, "/embeddings"])
@pytest.mark.parametrize("field", ["content", "input"])
async def test_response_has_llama_servers_shape(opened: Open, path: str, field: str) -> None:
    row = await embed(opened, path, {field: "Hello"})
    assert row["index"] == 0
    np.testing.assert_allclose(row["embedding"], unit(hidden_states("Hello")[-1]), rtol=1e-5)

    several = await embed(opened, path, {field: ["Hello", [72, 105]]})
    assert [row["index"] for row in several] == [0, 1]
    np.testing.assert_allclose(several[1]["embedding"], unit(hidden_states("Hi")[-1]), rtol=1e-5)


@pytest.mark.inventory("C-099", "E-154", "T-15")
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", unit(hidden_states("Hello").mean(axis=0))),
        ("cls", unit(hidden_states("H")[0])),
        ("last", unit(hidden_states("Hello")[-1])),
        ("none", hidden_states("Hello")),
    ],
)
async def test_pooling_flag_sets_the_pooling(opened: Open, pooling: str, expected: Any) -> None:
    row = await embed(opened, NATIVE, {"content": "Hello"}, pooling=pooling)
    np.testing.assert_allclose(row["embedding"], expected, rtol=1e-4)


@pytest.mark.inventory("E-153")
@pytest.mark.parametrize(
    ("p", "size"),
    [
        (1, lambda v: np.abs(v).sum()),
        (3, lambda v: (np.abs(v) ** 3).sum() ** (1 / 3)),
        (0, lambda v: np.abs(v).max() / 32760),
        (-1, lambda v: 1),
    ],
)
async def test_embd_normalize_sets_the_norm(opened: Open, p: int, size: Any) -> None:
    row = await embed(opened, NATIVE, {"content": "Hello", "embd_normalize": p})
    last = hidden_states("Hello")[-1].astype(np.float64)
    np.testing.assert_allclose(row["embedding"], last / size(last), rtol=1e-4)


@pytest.mark.parametrize("pooling", ["last", "none"])
async def test_native_vectors_can_be_base64(opened: Open, pooling: str) -> None:
    def unpack(vector: str) -> Any:
        return np.frombuffer(base64.b64decode(vector), "<f4")

    body = {"content": ["Hello", "ab"], "embd_normalize": 2}
    rows = await embed(opened, NATIVE, body, pooling=pooling)
    assert await embed(opened, NATIVE, {**body, "encoding_format": "float"}, pooling=pooling) == rows
    packed = await embed(opened, NATIVE, {**body, "encoding_format": "base64"}, pooling=pooling)
    assert len(rows) == len(packed) == 2
    for row, one in zip(rows, packed, strict=True):
        found = unpack(one["embedding"]) if pooling == "last" else list(map(unpack, one["embedding"]))
        np.testing.assert_array_equal(found, np.array(row["embedding"], np.float32))


@pytest.mark.inventory("E-152", "F-19", "B-16", "E-158")
async def test_response_has_openais_shape(opened: Open) -> None:
    body = {"input": ["Hello", "a"], "model": "any", "user": "me", "dimensions": N_EMBD}
    response = await embed(opened, OPENAI, body, pooling="mean")
    parsed = CreateEmbeddingResponse.model_validate(response)
    assert (parsed.model, parsed.usage.prompt_tokens, parsed.usage.total_tokens) == ("any", 6, 6)
    np.testing.assert_allclose(parsed.data[0].embedding, unit(hidden_states("Hello").mean(axis=0)), rtol=1e-4)
    np.testing.assert_allclose(parsed.data[1].embedding, unit(hidden_states("a")[0]), rtol=1e-4)

    packed = await embed(opened, OPENAI, {**body, "encoding_format": "base64"}, pooling="mean")
    raw = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(raw, np.array(response["data"][0]["embedding"], np.float32))


@pytest.mark.inventory("E-150", "E-155", "E-156", "E-159", "R-18", "D-19")
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (NATIVE, {}, "content"),
        (NATIVE, {"content": "a", "input": "b"}, "content"),
        (NATIVE, {"content": ""}, "content"),
        (NATIVE, {"content": []}, "content"),
        (NATIVE, {"content": 5}, "content"),
        (NATIVE, {"content": [9999]}, "content.0"),
        (NATIVE, {"content": "a", "image_data": [{"data": "", "id": 1}]}, "image_data"),
        (NATIVE, {"content": "a", "embd_normalize": -2}, "embd_normalize"),
        (NATIVE, {"content": {"prompt_string": "a", "multimodal_data": ["aGk="]}}, "content.multimodal_data"),
        (OPENAI, {"input": ["a", {"prompt_string": "a", "multimodal_data": ["aGk="]}]}, "input.1.multimodal_data"),
        (OPENAI, {"input": {"prompt_string": ""}}, "input"),
        (OPENAI, {"input": [1, [2]]}, "input.1"),
        (NATIVE, {"content": [{}]}, "content.0.prompt_string"),
        (NATIVE, {"content": [{"text": ""}]}, "content.0.text"),
        (NATIVE, {"content": [{"text": 1}]}, "content.0.text"),
        (NATIVE, {"content": [{"text": "a", "prompt_string": 1}]}, "content.0.prompt_string"),
        (NATIVE, {"content": [[{"text": "a"}]]}, "content.0.0"),
        (OPENAI, {"input": [{"image": "aGk="}]}, "input.0.prompt_string"),
        (OPENAI, {"input": {"text": None}}, "input.text"),
        (OPENAI, {}, "input"),
        (OPENAI, {"input": "a", "dimensions": 3}, "dimensions"),
        (OPENAI, {"input": "a", "image_data": [{"data": "", "id": 1}]}, "image_data"),
        (OPENAI, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        (NATIVE, {"content": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_invalid_requests_are_400(opened: Open, path: str, body: dict[str, Any], param: str) -> None:
    async with opened() as client:
        response = await client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["", "a"], "input.0 must have at least 1 character"),
        (["a", ""], "input.1 must have at least 1 character"),
        (["a"] * 2049, "input must have at most 2048 elements"),
        ([1] * 131073, "input must have at most 131072 elements"),
        ([1, -1], "input.1 must be at least 0"),
        ([], "input must have at least 1 element"),
        ([None], "input.0 must be an integer, a string, an array or an object"),
    ],
)
async def test_the_reason_of_a_refusal_is_the_real_one(opened: Open, value: Any, message: str) -> None:
    async with opened() as client:
        error = (await client.post(OPENAI, json={"input": value})).json()["error"]
    assert (error["code"], error["message"]) == (400, message)


@pytest.mark.inventory("Q-11", "T-15")
@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        ({"prompt_string": "abc", "multimodal_data": []}, ["abc"]),
        ({"prompt_string": ["a", 98, "c"]}, ["abc"]),
        ([97, "bc"], ["abc"]),
        (["a", {"prompt_string": "bc"}, [97, 98], ["a", 99]], ["a", "bc", "ab", "ac"]),
        ({"text": "abc"}, ["abc"]),
        ([{"text": "abc"}], ["abc"]),
        (["a", {"text": "bc", "image": None}, [97, 98], {"prompt_string": ["a", 99]}], ["a", "bc", "ab", "ac"]),
        ({"prompt_string": "abc", "text": None}, ["abc"]),
        ([{"prompt_string": "abc", "text": 98}], ["abc"]),
        ([{"prompt_string": ["a", 98, "c"], "text": {"a": []}}], ["abc"]),
    ],
)
async def test_texts_have_the_forms_of_prompts(opened: Open, value: Any, same_as: list[str]) -> None:
    found = await embed(opened, OPENAI, {"input": value}, pooling="mean")
    expected = await embed(opened, OPENAI, {"input": same_as}, pooling="mean")
    assert found["data"] == expected["data"]
    assert found["usage"] == expected["usage"]

    for field in ("content", "input"):
        native = await embed(opened, NATIVE, {field: value}, pooling="mean")
        assert native == await embed(opened, NATIVE, {"content": same_as}, pooling="mean")


@pytest.mark.parametrize(
    ("pooling", "path", "status"), [("none", OPENAI, 400), ("rank", OPENAI, 501), ("rank", NATIVE, 501)]
)
async def test_pooling_without_embeddings_is_an_error(opened: Open, pooling: str, path: str, status: int) -> None:
    async with opened(pooling=pooling) as client:
        assert (await client.post(path, json={"input": "a"})).status_code == status


@pytest.mark.inventory("C-106", "E-118", "E-157")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"prompt": "a"}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
async def test_embedding_flag_switches_completions_off(opened: Open, path: str, body: dict[str, Any]) -> None:
    async with opened(embedding=True) as client:
        assert (await client.post(NATIVE, json={"content": "a"})).status_code == 200
        error = (await client.post(path, json=body)).json()["error"]
    assert (error["code"], error["type"]) == (501, "not_supported_error")
    assert error["message"].startswith("This server does not support completions.")


async def test_texts_get_bos(opened: Open) -> None:
    response = await embed(opened, OPENAI, {"input": "abc"}, tokenizer=ToyTokenizerWithBos())
    assert response["usage"]["prompt_tokens"] == 4
