"""Embeddings: forms, shapes, norms; the toy model's hidden states are a function of the text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse

from support.toy import N_EMBD, ToyTokenizer, noise

NATIVE, OPENAI = "/embedding", "/v1/embeddings"


def states(text: str) -> Any:
    return np.array([noise(list(text.encode())[: i + 1])[:N_EMBD] for i in range(len(text.encode()))])


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


async def ask(opened: Any, path: str, body: dict[str, Any], **settings: Any) -> Any:
    async with opened(**settings) as client:
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.mark.inventory("E-150", "E-151", "E-153", "E-157")
@pytest.mark.parametrize("path", [NATIVE, "/embeddings"])
@pytest.mark.parametrize("field", ["content", "input"])
async def test_the_native_shape(opened: Any, path: str, field: str) -> None:
    found = await ask(opened, path, {field: "Hello"})
    assert found["index"] == 0
    np.testing.assert_allclose(found["embedding"], unit(states("Hello")[-1]), rtol=1e-5)
    several = await ask(opened, path, {field: ["Hello", [72, 105]]})
    assert [row["index"] for row in several] == [0, 1]
    np.testing.assert_allclose(several[1]["embedding"], unit(states("Hi")[-1]), rtol=1e-5)


@pytest.mark.inventory("C-099", "E-154", "T-15")
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", unit(states("Hello").mean(axis=0))),
        ("cls", unit(states("H")[0])),
        ("last", unit(states("Hello")[-1])),
        ("none", states("Hello")),
    ],
)
async def test_poolings(opened: Any, pooling: str, expected: Any) -> None:
    found = await ask(opened, NATIVE, {"content": "Hello"}, pooling=pooling)
    np.testing.assert_allclose(found["embedding"], expected, rtol=1e-4)


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
async def test_norms(opened: Any, p: int, size: Any) -> None:
    found = await ask(opened, NATIVE, {"content": "Hello", "embd_normalize": p})
    last = states("Hello")[-1].astype(np.float64)
    np.testing.assert_allclose(found["embedding"], last / size(last), rtol=1e-4)


@pytest.mark.inventory("E-152", "F-19", "B-16", "E-158")
async def test_openais_shape(opened: Any) -> None:
    body = {"input": ["Hello", "a"], "model": "any", "user": "me", "dimensions": N_EMBD}
    found = await ask(opened, OPENAI, body, pooling="mean")
    answer = CreateEmbeddingResponse.model_validate(found)
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("any", 6, 6)
    np.testing.assert_allclose(answer.data[0].embedding, unit(states("Hello").mean(axis=0)), rtol=1e-4)
    np.testing.assert_allclose(answer.data[1].embedding, unit(states("a")[0]), rtol=1e-4)
    packed = await ask(opened, OPENAI, {**body, "encoding_format": "base64"}, pooling="mean")
    raw = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(raw, np.array(found["data"][0]["embedding"], np.float32))


@pytest.mark.inventory("E-150", "E-155", "E-156", "E-159", "R-18", "D-19")
@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (NATIVE, {}, 400, "content"),
        (NATIVE, {"content": "a", "input": "b"}, 400, "content"),
        (NATIVE, {"content": ""}, 400, "content"),
        (NATIVE, {"content": []}, 400, "content"),
        (NATIVE, {"content": 5}, 400, "content"),
        (NATIVE, {"content": [9999]}, 400, "content.0"),
        (NATIVE, {"content": "x" * 65}, 400, "content"),
        (NATIVE, {"content": ["a", "x" * 65]}, 400, "content.1"),
        (NATIVE, {"content": "a", "image_data": [{"data": "", "id": 1}]}, 501, "image_data"),
        (NATIVE, {"content": "a", "embd_normalize": -2}, 400, "embd_normalize"),
        (OPENAI, {}, 400, "input"),
        (OPENAI, {"input": "a", "dimensions": 3}, 400, "dimensions"),
        (OPENAI, {"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
    ],
)
async def test_what_is_refused(opened: Any, path: str, body: dict[str, Any], status: int, param: str) -> None:
    async with opened() as client:
        response = await client.post(path, json=body)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, param), error


async def test_what_a_pooling_cannot_do(opened: Any) -> None:
    for pooling, status, path in (("none", 400, OPENAI), ("rank", 501, OPENAI), ("rank", 501, NATIVE)):
        async with opened(pooling=pooling) as client:
            assert (await client.post(path, json={"input": "a"})).status_code == status


@pytest.mark.inventory("C-106", "E-118", "E-157")
async def test_a_server_for_embeddings_only(opened: Any) -> None:
    async with opened(embedding=True) as client:
        assert (await client.post(NATIVE, json={"content": "a"})).status_code == 200
        for path, body in (
            ("/completion", {"prompt": "a"}),
            ("/v1/completions", {"prompt": "a"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ):
            error = (await client.post(path, json=body)).json()["error"]
            assert (error["code"], error["type"]) == (501, "not_supported_error")
            assert error["message"].startswith("This server does not support completions.")


async def test_bos_is_part_of_a_text(opened: Any) -> None:
    class WithBos(ToyTokenizer):
        def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
            return [256] * add_special + list(text.encode())

    found = await ask(opened, OPENAI, {"input": "abc"}, tokenizer=WithBos())
    assert found["usage"]["prompt_tokens"] == 4
