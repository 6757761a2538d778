"""An engine with a prompt cache on disk: a restart evaluates no prompt again, and no failure changes a response."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import RequestError
from llamafw.engine import BatchingEngine
from llamafw.engine.disk_cache import DiskCache, StoredState
from llamafw.engine.prompt_cache import Entry
from support.toy_model import ToyBackend, generate_answer, random_logits
from support.toy_snapshots import RecurrentToyBackend, WindowedToyBackend

Start = Callable[..., BatchingEngine]
KINDS = {"plain": ToyBackend, "recurrent": RecurrentToyBackend, "windowed": WindowedToyBackend}
SPARE = 16  # as many tokens may be evaluated again, because snapshots are as far apart
A, B, C = (tuple(range(first, first + 80)) for first in (0, 80, 160))


def cache(folder: Path, n_ctx: int = 256) -> DiskCache:
    return DiskCache(folder, 2**30, bytes(32), n_ctx)


@pytest.fixture
def restart(start: Start, tmp_path: Path) -> Callable[..., BatchingEngine]:
    """Return a function that starts an engine of one slot, with the folder of all others."""

    def make(kind: str = "plain", prompt_cache: int = 10_000_000, **more: Any) -> BatchingEngine:
        backend = KINDS[kind](random_logits, n_slots=more.pop("n_slots", 1), n_ctx=256, n_batch=256, **more)
        return start(backend, prompt_cache=prompt_cache, disk_cache=cache(tmp_path / "states"))

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt_cache", [0, 10_000_000])
async def test_prompts_survive_a_restart(restart: Start, kind: str, prompt_cache: int) -> None:
    """Both the prompt in the slot and the one whose slot was taken."""
    engine = restart(kind, prompt_cache)
    answers = [await generate_answer(engine, prompt, n_predict=4) for prompt in (A, B)]
    await engine.stop(10)

    engine = restart(kind, prompt_cache)
    for prompt, answer in zip((A, B), answers, strict=True):
        again = await generate_answer(engine, (*prompt, *answer.ids[:2], 7), n_predict=4)
        assert again.finish.n_cached >= len(prompt) - SPARE
        fresh = await generate_answer(engine, (*prompt, *answer.ids[:2], 7), n_predict=4, cache_prompt=False)
        assert again.ids == fresh.ids
    disk = engine.stats().disk_cache
    assert disk is not None
    assert disk.n_reads >= 2
    assert disk.n_failures == 0


async def test_states_that_leave_the_memory_are_read_again(restart: Start) -> None:
    engine = restart(prompt_cache=400)  # one state has 4 bytes per token: there is space for one
    answers = [await generate_answer(engine, prompt, n_predict=3) for prompt in (A, B, C)]
    assert engine.stats().prompt_cache_bytes <= 400
    again = await generate_answer(engine, A, n_predict=3)
    assert (again.finish.n_cached, again.ids) == (79, answers[0].ids)


async def test_short_prompts_are_not_stored(restart: Start) -> None:
    engine = restart()
    await generate_answer(engine, A[:40], n_predict=3)
    await engine.stop(10)
    assert cache_stats(engine) == (0, 0)


async def test_stored_prompt_is_not_written_again(restart: Start) -> None:
    engine = restart()
    await generate_answer(engine, A, n_predict=3)
    await engine.stop(10)
    assert cache_stats(engine) == (1, 1)
    engine = restart()
    await generate_answer(engine, A, n_predict=1)
    await engine.stop(10)
    assert cache_stats(engine) == (1, 0)


def cache_stats(engine: BatchingEngine) -> tuple[int, int]:
    """Return how many states are stored, and how many the engine has written."""
    disk = engine.stats().disk_cache
    assert disk is not None
    return disk.n_states, disk.n_writes


async def test_stop_stores_no_state_of_a_failed_engine(restart: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = restart()
    await generate_answer(engine, A, n_predict=1)

    def fail() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._worker, "step", fail)
    with pytest.raises(RequestError):
        await generate_answer(engine, B, n_predict=1)
    await engine.stop(10)
    assert cache_stats(engine) == (0, 0)


class SlowDisk(DiskCache):
    """Reads a state only when it is allowed to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2**30, bytes(32), 256)
        self.started, self.allowed = threading.Event(), threading.Event()

    def read(self, state: StoredState, done: Callable[[Entry | None], None]) -> None:
        def wait_and_read() -> None:
            assert self.allowed.wait(60)
            DiskCache.read(self, state, done)

        self.started.set()
        threading.Thread(target=wait_and_read).start()


async def test_other_requests_go_on_while_a_state_is_read(restart: Start, start: Start, tmp_path: Path) -> None:
    engine = restart()
    first = await generate_answer(engine, A, n_predict=3)
    await engine.stop(10)

    disk = SlowDisk(tmp_path / "states")
    engine = start(ToyBackend(random_logits, n_slots=2, n_ctx=256, n_batch=256), disk_cache=disk)
    waiting = asyncio.create_task(generate_answer(engine, A, n_predict=3))
    assert await asyncio.to_thread(disk.started.wait, 60)
    other = await generate_answer(engine, B, n_predict=20)
    assert other.finish.n_predicted == 20
    assert not waiting.done()
    disk.allowed.set()
    assert ((await waiting).ids, (await waiting).finish.n_cached) == (first.ids, 79)


async def test_request_that_is_cancelled_while_a_state_is_read_is_forgotten(
    restart: Start, start: Start, tmp_path: Path
) -> None:
    engine = restart()
    await generate_answer(engine, A, n_predict=3)
    await engine.stop(10)

    disk = SlowDisk(tmp_path / "states")
    engine = start(ToyBackend(random_logits, n_slots=1, n_ctx=256, n_batch=256), disk_cache=disk)
    waiting = asyncio.create_task(generate_answer(engine, A, n_predict=3))
    assert await asyncio.to_thread(disk.started.wait, 60)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    disk.allowed.set()
    assert (await generate_answer(engine, B, n_predict=3)).finish.n_predicted == 3
    assert engine.stats().requests_deferred == 0


async def test_damaged_state_is_evaluated_again(restart: Start, tmp_path: Path) -> None:
    engine = restart()
    first = await generate_answer(engine, A, n_predict=3)
    await engine.stop(10)
    (file,) = (tmp_path / "states").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    engine = restart()
    again = await generate_answer(engine, A, n_predict=3)
    assert (again.finish.n_cached, again.ids) == (0, first.ids)


async def test_state_that_does_not_fit_is_evaluated_again(restart: Start, tmp_path: Path) -> None:
    """A checksum is right, but the backend refuses the state."""
    disk = cache(tmp_path / "states")
    disk.write(Entry(np.array(A, np.int32), np.zeros(7, np.uint8)), lambda: True)
    disk.close()
    engine = restart()
    answers = [await generate_answer(engine, A, n_predict=3, seed=1) for _ in range(2)]
    assert [answer.finish.n_cached for answer in answers] == [0, 79]
    assert answers[0].ids == answers[1].ids
    stats = engine.stats().disk_cache
    assert stats is not None
    assert stats.n_failures == 1
