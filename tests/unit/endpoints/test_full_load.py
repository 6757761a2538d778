"""The server while all its slots work and many requests wait: those who watch it are answered all the same."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from support.toy import ToyBackend, forever

SLOTS, STREAMS = 2, 66


async def stream(client: httpx.AsyncClient) -> int:
    """Read one answer to its end; return how many events it had."""
    body = {"prompt": "abc", "n_predict": 8, "temperature": 0, "stream": True}
    async with client.stream("POST", "/completion", json=body, timeout=60) as response:
        assert response.status_code == 200
        return len([line async for line in response.aiter_lines() if line])


async def until_all_have_come(client: httpx.AsyncClient) -> tuple[int, int]:
    """Return how many requests have a slot, and how many wait for one, once all streams are among them."""
    async with asyncio.timeout(30):
        while True:
            text = (await client.get("/metrics")).text
            processing, deferred = (
                int(float(re.findall(rf"^llamacpp:requests_{name} (.*)", text, re.M)[0]))
                for name in ("processing", "deferred")
            )
            if processing + deferred == STREAMS:
                return processing, deferred
            await asyncio.sleep(0)


@pytest.mark.inventory("E-001", "P-07", "R-10")
async def test_who_watches_is_answered_under_full_load(opened: Any) -> None:
    """The engine is held within a forward pass: nothing that waits for it would ever be answered."""
    backend = ToyBackend(forever, n_slots=SLOTS, n_ctx=64, hold=True)
    async with opened(backend=backend, metrics=True, slots=True, validate_responses=False) as client:
        tasks = [asyncio.create_task(stream(client)) for _ in range(STREAMS)]
        await backend.begun()
        await until_all_have_come(client)
        backend.allow()  # that pass was for the first to come
        await backend.begun()
        assert await until_all_have_come(client) == (SLOTS, STREAMS - SLOTS)
        n_passes = len(backend.batches)
        for path in ("/health", "/v1/health", "/v1/models", "/props", "/slots", "/metrics", "/openapi.json", "/"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.post("/tokenize", json={"content": "a" * 5000})).status_code == 200
        assert (await client.post("/completion", json={"prompt": 5})).status_code == 400
        assert len(backend.batches) == n_passes, "the load has not been full"
        assert not any(task.done() for task in tasks)
        backend.allow(10_000)
        assert await asyncio.gather(*tasks) == [9] * STREAMS
