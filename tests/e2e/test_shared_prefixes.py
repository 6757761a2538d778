"""Chats with the same system prompt evaluate it once and hold it once, with the default model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server

pytestmark = pytest.mark.exact  # slots share memory on such backends only

N_CHATS, N_SYSTEM, PAGE = 16, 2000, 64
QUESTIONS = [f"What is {number} plus {number}?" for number in range(1, N_CHATS + 1)]


@pytest.fixture(scope="module")
def server(real_model: Path) -> Iterator[ServerProcess]:
    flags = ("-np", str(N_CHATS), "-c", str(N_CHATS * 2304), "--metrics", "--cache-ram", "0")
    with running_server(real_model, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def system(server: ServerProcess) -> str:
    """Return a system prompt of 2,000 tokens, from the pages of this project."""
    text = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
    with httpx.Client(base_url=server.url, timeout=60) as http:
        tokens = http.post("/tokenize", json={"content": text}).json()["tokens"]
        return str(http.post("/detokenize", json={"tokens": tokens[:N_SYSTEM]}).json()["content"])


async def ask(client: httpx.AsyncClient, system: str, question: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 8, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def test_sixteen_chats_evaluate_and_hold_their_system_prompt_once(server: ServerProcess, system: str) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
        answers = await asyncio.gather(*(ask(client, system, question) for question in QUESTIONS))
        found = await metrics(client)

        timings = [answer["timings"] for answer in answers]
        assert sorted(one["cache_n"] >= N_SYSTEM for one in timings) == [False, *[True] * (N_CHATS - 1)]
        n_own = sum(one["prompt_n"] for one in timings) - max(one["prompt_n"] for one in timings)
        assert n_own < (N_CHATS - 1) * 40
        assert found["llamacpp:prompt_tokens_total"] == sum(one["prompt_n"] for one in timings)

        assert found["llamafw_kv_pages"] == N_CHATS * 2304 / PAGE
        assert N_SYSTEM // PAGE <= found["llamafw_kv_pages_shared"] <= N_SYSTEM // PAGE + 2
        assert found["llamafw_kv_pages_used"] <= found["llamafw_kv_pages_shared"] + 2 * N_CHATS
        assert found["llamafw_kv_pages_touched"] == found["llamafw_kv_pages_used"]

        for number in (0, 9):  # the answers are those of a slot that shares nothing
            alone = await ask(client, system, QUESTIONS[number], cache_prompt=False)
            assert alone["timings"]["cache_n"] == 0
            assert alone["choices"][0]["message"] == answers[number]["choices"][0]["message"]


async def test_system_prompt_of_a_busy_chat_is_shared(server: ServerProcess, system: str) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
        for slot in range(N_CHATS):  # nothing is left of other tests
            filled = await client.post("/completion", json={"prompt": "x", "n_predict": 0, "id_slot": slot})
            assert filled.status_code == 200
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "Tell me a story."}]
        body = {"messages": messages, "temperature": 0, "max_tokens": 200, "ignore_eos": True, "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as running:
            lines = running.aiter_lines()
            while '"content":"' not in await anext(lines):
                pass
            answer = await ask(client, system, QUESTIONS[0])
            assert answer["timings"]["cache_n"] >= N_SYSTEM
            assert [line async for line in lines][-2] == "data: [DONE]"
        alone = await ask(client, system, QUESTIONS[0], cache_prompt=False)
        assert alone["choices"][0]["message"] == answer["choices"][0]["message"]
