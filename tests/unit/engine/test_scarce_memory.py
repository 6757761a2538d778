"""When the memory of the machine is nearly full, the prompt cache gives way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamafw.engine import BatchingEngine, engine_thread, prompt_cache
from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.prompt_cache import PromptCache
from support.toy_model import ToyBackend, generate_answer, random_logits

Start = Callable[..., BatchingEngine]
MIB, GIB = 2**20, 2**30
A, B = tuple(range(80)), tuple(range(80, 160))


def test_prompt_cache_shrinks_when_memory_is_scarce() -> None:
    free = GIB
    cache = PromptCache(None, None, lambda: free)
    for i in range(3):
        cache.add(np.full(10, i, np.int32), np.zeros(100, np.uint8))
    assert cache.n_bytes == 300
    free = 256 * MIB - 150  # 150 bytes are lacking
    cache.add(np.full(10, 9, np.int32), np.zeros(100, np.uint8))
    assert cache.n_bytes == 200
    assert cache.holds(np.full(10, 9, np.int32))
    free = 0
    cache.add(np.full(10, 8, np.int32), np.zeros(100, np.uint8))
    assert cache.n_bytes == 0


def test_memory_is_looked_at_once_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = 0.0, 0

    def free_memory() -> int:
        nonlocal looks
        looks += 1
        return GIB

    monkeypatch.setattr(prompt_cache, "monotonic", lambda: now)
    cache = PromptCache(None, None, free_memory)
    cache.relieve()
    assert looks == 0  # it is empty
    cache.add(np.zeros(10, np.int32), np.zeros(100, np.uint8))
    looks = 0
    for _ in range(5):
        cache.relieve()
    assert looks == 1
    now = 1.0
    cache.relieve()
    assert looks == 2


async def test_prompt_cache_shrinks_while_requests_run(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nothing is added to it: the memory may be used by slots, or by other programs."""
    monkeypatch.setattr(prompt_cache, "_CHECK_SECONDS", 0)
    free = GIB
    backend = ToyBackend(random_logits, n_slots=1, n_ctx=256)
    engine = start(backend, prompt_cache=None, free_memory=lambda: free)
    for prompt in (A, B):
        await generate_answer(engine, prompt, n_predict=2)
    assert engine.stats().prompt_cache_bytes > 0
    free = 0
    await generate_answer(engine, (*B, 1), n_predict=2)  # the slot has its start: nothing is saved
    assert engine.stats().prompt_cache_bytes == 0


async def test_prompt_cache_of_an_idle_engine_shrinks(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prompt_cache, "_CHECK_SECONDS", 0)
    monkeypatch.setattr(engine_thread, "_RELIEVE_SECONDS", 0.001)
    free = GIB
    disk = DiskCache(tmp_path, 2**30, bytes(32), 256)
    backend = ToyBackend(random_logits, n_slots=1, n_ctx=256, n_batch=256)
    engine = start(backend, prompt_cache=None, free_memory=lambda: free, disk_cache=disk)
    first = await generate_answer(engine, A, n_predict=2)
    await generate_answer(engine, B, n_predict=2)
    assert engine.stats().prompt_cache_bytes > 0
    free = 0
    async with asyncio.timeout(60):
        while engine.stats().prompt_cache_bytes:  # noqa: ASYNC110  # the engine thread will empty it
            await asyncio.sleep(0)
    free = GIB
    again = await generate_answer(engine, A, n_predict=2)  # it went to the disk
    assert (again.ids, again.finish.n_cached >= 64) == (first.ids, True)
