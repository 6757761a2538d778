"""Many parallel clients send valid and invalid requests, and some disconnect early."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server
from llamafw.testing.tiny import write_tiny_gguf

N_CLIENTS, N_REQUESTS = 12, 25
REFERENCE_REQUEST = {"prompt": "hello world", "n_predict": 24, "seed": 7, "temperature": 1.5, "ignore_eos": True}

FIELDS: dict[str, list[Any]] = {  # field → values, valid or not; each field is in one of seven requests
    "stop": [["e"], "a", [1], ["", "x"]],
    "n_probs": [3, 0, -1],
    "id_slot": [0, 2, 9, -2, "x"],
    "grammar": ['root ::= [a-z]{1,9} "!"', "root ::= root", "root ::= (", 5],
    "json_schema": [{"type": "integer"}, {"type": "nothing"}, {"properties": {"a": {"enum": [1, "b"]}}}],
    "samplers": [["top_k"], ["nobody"], []],
    "mirostat": [1, 2, 3],
    "temperature": [0, 100.0, -1, None],
    "logit_bias": [[[5, False]], [[10**9, 1]], {"7": -100}],
    "n_keep": [-1, 5, 10**9],
    "cache_prompt": [False],
    "repeat_last_n": [-1, 10**6],
    "return_progress": [True],
    "deadline_ms": [1, 30],
    "n_predict": [0, -1, -2, 3, "many"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("storm")
    model = write_tiny_gguf(folder / "tiny.gguf")

    with running_server(
        model,
        "-np",
        "4",
        "-c",
        "512",
        "--slots",
        "--props",
        "--slot-save-path",
        str(folder),
        "--max-queue",
        "8",
        "--validate-responses",
        "--log-disable",
    ) as running:
        yield running


def random_request(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a path and a body, valid or not."""
    words = "hello", "world", "the", "é", "🙂", "<|im_start|>"
    text = " ".join(chance.choices(words, k=chance.randint(0, 60)))
    body: dict[str, Any] = {"stream": chance.random() < 0.5, "n_predict": chance.randint(1, 30)}
    body |= {name: chance.choice(values) for name, values in FIELDS.items() if chance.random() < 1 / 7}
    slot = chance.randint(0, 4)

    return chance.choice(
        [
            ("/completion", {"prompt": text, **body}),
            ("/completion", {"prompt": [text, [1, 2, 3]], **body}),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": text}], "n": chance.randint(1, 2), **body},
            ),
            ("/v1/chat/completions", {"messages": [{"role": "user"}], **body}),
            ("/v1/embeddings", {"input": [text or "x", "b"]}),
            ("/tokenize", {"content": text}),
            (f"/slots/{slot}?action={chance.choice(('save', 'restore', 'erase', 'sing'))}", {"filename": "a.bin"}),
            ("/props", {"system_prompt": chance.choice(["", 5])}),  # a valid one empties all caches
        ]
    )


async def send(client: httpx.AsyncClient, chance: random.Random) -> int:
    """Send a request and read the response, or disconnect early; return the status, or 0 after a disconnect."""
    path, body = random_request(chance)
    if chance.random() < 0.1:  # disconnect before the response
        try:
            async with asyncio.timeout(chance.random() / 20):
                await client.post(path, json=body)
        except TimeoutError:
            pass
        return 0

    async with client.stream("POST", path, json=body) as response:
        if response.headers["content-type"].startswith("text/event-stream"):
            async for line in response.aiter_lines():
                if chance.random() < 0.05:
                    return 0
                assert not line or line.startswith("data: "), line
            return response.status_code
        answer = await response.aread()

    if response.status_code != 200:
        error = response.json()["error"]
        assert error["code"] == response.status_code
        assert error["message"], answer
        assert error["type"], answer
    return response.status_code


async def reference_text(client: httpx.AsyncClient) -> str:
    """Return the text for a fixed prompt and seed; try again while the queue is full."""
    while (answer := await client.post("/completion", json=REFERENCE_REQUEST)).status_code == 429:
        pass
    assert answer.status_code == 200, answer.text
    return str(answer.json()["content"])


@pytest.mark.inventory("K-02", "P-05")
async def test_random_clients_do_not_affect_each_other(server: ServerProcess) -> None:
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        alone, seen, statuses = await reference_text(client), set[str](), Counter[int]()

        async def visit(number: int) -> None:
            chance = random.Random(number)
            for i in range(N_REQUESTS):
                statuses[await send(client, chance)] += 1
                if i % 8 == number % 8:
                    seen.add(await reference_text(client))

        await asyncio.gather(*map(visit, range(N_CLIENTS)))
        assert set(statuses) <= {0, 200, 400, 404, 429, 504}, statuses
        assert min(statuses[0], statuses[200], statuses[400]) > 10
        seen.add(await reference_text(client))
        assert seen == {alone}
        async with asyncio.timeout(30):
            while any(slot["is_processing"] for slot in (await client.get("/slots")).json()):
                pass
