"""Errors about JSON Schemas name the whole path of the keyword, and white space can be free."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from llamafw import Floats
from unit.endpoints.conftest import Open

USER = {"role": "user", "content": "Hi"}
TWO = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a", "b"]}


def scores(prefix: Sequence[int]) -> Floats:
    """Return logits that prefer short values and white space."""
    row = np.random.default_rng(len(prefix)).normal(0, 1, 264).astype(np.float32)
    row[list(b" \n\t")] += 3
    row[list(b',:}"')] += 2
    return row


@pytest_asyncio.fixture
async def chat_client(opened: Open) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(scores=scores, n_ctx=4096) as client:
        yield client


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


BAD = {"type": "object", "properties": {"x": {"type": "string", "not": {"const": "a"}}}}
WORDS = {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}}


@pytest.mark.inventory("G-03", "J-02")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [tool("f", BAD)], "tool_choice": "required"}, "tools.0.function.parameters.properties.x.not"),
        (
            {
                "tools": [tool("f", TWO), tool("g", WORDS)],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tools.1.function.parameters.properties.x.uniqueItems",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": BAD}}},
            "response_format.json_schema.schema.properties.x.not",
        ),
        ({"json_schema": WORDS}, "json_schema.properties.x.uniqueItems"),
    ],
)
async def test_errors_name_the_path_of_the_keyword(chat_client: httpx.AsyncClient, fields: Any, param: str) -> None:
    response = await chat_client.post("/v1/chat/completions", json={"messages": [USER], **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_schemas_of_other_tools_are_not_checked(chat_client: httpx.AsyncClient) -> None:
    choice = {"type": "function", "function": {"name": "g"}}
    body = {"messages": [USER], "tools": [tool("f", BAD), tool("g", TWO)], "tool_choice": choice, "max_tokens": 200}
    response = await chat_client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("whitespace", [None, "compact", "free"])
async def test_white_space_is_compact_unless_it_is_free(chat_client: httpx.AsyncClient, whitespace: str | None) -> None:
    body = {"prompt": "x", "json_schema": TWO, "whitespace": whitespace, "n_predict": 300, "seed": 1, "temperature": 2}
    answer = (await chat_client.post("/completion", json=body)).json()["content"]
    assert set(json.loads(answer)) == {"a", "b"}
    assert ("\n" in answer or "\t" in answer or "  " in answer) == (whitespace == "free")


async def test_unknown_white_space_is_400(chat_client: httpx.AsyncClient) -> None:
    response = await chat_client.post("/completion", json={"prompt": "x", "json_schema": TWO, "whitespace": "tabs"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "whitespace"
