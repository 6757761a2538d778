"""Monitoring requests are answered while all slots are busy and many requests wait."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from support.toy_model import ToyBackend, alphabet_logits
from unit.endpoints.conftest import Open

N_SLOTS, N_STREAMS = 2, 66


async def read_stream(client: httpx.AsyncClient) -> int:
    """Read one stream to its end; return its number of events."""
    body = {"prompt": "abc", "n_predict": 8, "temperature": 0, "stream": True}
    async with client.stream("POST", "/completion", json=body, timeout=60) as response:
        assert response.status_code == 200
        return len([line async for line in response.aiter_lines() if line.startswith("data:")])  # no keep-alive lines


async def wait_for_all_streams(client: httpx.AsyncClient) -> tuple[int, int]:
    """Wait until all streams have reached the engine; return how many have a slot and how many wait for one."""
    async with asyncio.timeout(30):
        while True:
            text = (await client.get("/metrics")).text
            processing, deferred = (
                int(float(re.findall(rf"^llamacpp:requests_{name} (.*)", text, re.M)[0]))
                for name in ("processing", "deferred")
            )
            if processing + deferred == N_STREAMS:
                return processing, deferred
            await asyncio.sleep(0)


@pytest.mark.inventory("E-001", "P-07", "R-10")
async def test_monitoring_is_answered_under_full_load(opened: Open) -> None:
    """The engine is held in a forward pass, so a request that waited for it would never be answered."""
    backend = ToyBackend(alphabet_logits, n_slots=N_SLOTS, n_ctx=64, hold=True)
    async with opened(backend=backend, metrics=True, slots=True, validate_responses=False) as client:
        tasks = [asyncio.create_task(read_stream(client)) for _ in range(N_STREAMS)]
        await backend.wait_for_forward()
        await wait_for_all_streams(client)
        backend.allow_forward()  # that pass was of the first streams only
        await backend.wait_for_forward()
        assert await wait_for_all_streams(client) == (N_SLOTS, N_STREAMS - N_SLOTS)

        n_passes = len(backend.batches)
        for path in ("/health", "/v1/health", "/v1/models", "/props", "/slots", "/metrics", "/openapi.json", "/"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.post("/tokenize", json={"content": "a" * 5000})).status_code == 200
        assert (await client.post("/completion", json={"prompt": 5})).status_code == 400
        assert len(backend.batches) == n_passes, "the engine was not held"
        assert not any(task.done() for task in tasks)

        backend.allow_forward(10_000)
        assert await asyncio.gather(*tasks) == [9] * N_STREAMS
