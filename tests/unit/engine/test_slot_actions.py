"""Actions on slots, and the reported state of slots and engine."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llamafw import GenerationError, RequestError
from llamafw.engine import BatchingEngine
from support.toy_model import ToyBackend, generate_answer, random_logits

Start = Callable[..., BatchingEngine]
A = tuple(range(20))


@pytest.mark.inventory("E-212", "E-213", "E-214")
async def test_slot_is_saved_erased_and_restored(start: Start, tmp_path: Path) -> None:
    engine, path = start(ToyBackend(random_logits)), tmp_path / "slot"
    first = await generate_answer(engine, A, n_predict=3, id_slot=0)
    n_saved, n_written = await engine.save_slot(0, path)
    assert (n_saved, n_written) == (22, path.stat().st_size)  # the last drawn token was not evaluated
    assert os.listdir(tmp_path) == ["slot"]  # no temporary file is left
    assert await engine.erase_slot(0) == 22
    assert (await generate_answer(engine, A, n_predict=3, id_slot=0)).finish.n_cached == 0
    assert await engine.restore_slot(1, path) == (22, n_written)
    again = await generate_answer(engine, A, n_predict=3, id_slot=1)
    assert (again.finish.n_cached, again.ids) == (19, first.ids)


@pytest.mark.inventory("E-213")
async def test_refused_files_change_nothing(start: Start, tmp_path: Path) -> None:
    engine, path = start(ToyBackend(random_logits)), tmp_path / "slot"
    await generate_answer(engine, A, n_predict=1, id_slot=0)
    await engine.save_slot(0, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    wrong = {
        "empty": b"",
        "text": b"hello" * 100,
        "cut": whole[:-1],
        "longer": whole + b"x",
        "damaged": bytes(flipped),
        "version": whole[:8] + b"\x09" + whole[9:],
        "foreign": whole[:12] + bytes(32) + b"\x01" + whole[45:],
    }
    other = start(ToyBackend(random_logits), fingerprint=b"\x01" * 32)
    await generate_answer(engine, range(50, 60), n_predict=1, id_slot=1)
    for name, data in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RequestError, match="Unable to restore slot") as caught:
            await engine.restore_slot(1, tmp_path / name)
        assert (caught.value.status, caught.value.param) == (400, "filename")
        assert str(tmp_path) not in caught.value.message
    for engine_, file in ((other, path), (engine, tmp_path / "nothing"), (engine, tmp_path)):
        with pytest.raises(RequestError, match="Unable to restore slot"):
            await engine_.restore_slot(1, file)
    small = start(ToyBackend(random_logits, n_ctx=16))
    with pytest.raises(RequestError, match="the context of a slot is 16"):
        await small.restore_slot(0, path)
    assert (await generate_answer(engine, range(50, 60), n_predict=1, id_slot=1)).finish.n_cached == 9


@pytest.mark.inventory("E-213")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on Unix only")
async def test_restoring_from_a_pipe_is_refused(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="Unable to restore slot"):
        await asyncio.wait_for(start(ToyBackend(random_logits)).restore_slot(0, tmp_path / "pipe"), 60)


async def test_write_errors_are_reported_without_the_path(start: Start, tmp_path: Path) -> None:
    engine = start(ToyBackend(random_logits))
    await generate_answer(engine, A, n_predict=1)
    (tmp_path / "file").touch()
    with pytest.raises(GenerationError, match=os.strerror(errno.EEXIST)) as caught:
        await engine.save_slot(0, tmp_path / "file" / "slot")
    assert str(tmp_path) not in caught.value.message


@pytest.mark.inventory("E-210")
@pytest.mark.parametrize("id", [-1, 2, 99])
async def test_unknown_slots_are_refused(start: Start, tmp_path: Path, id: int) -> None:
    engine = start(ToyBackend(random_logits))
    path = tmp_path / "x"
    for action in (engine.save_slot(id, path), engine.restore_slot(id, path), engine.erase_slot(id)):
        with pytest.raises(RequestError, match="slot .* does not exist"):
            await action


@pytest.mark.inventory("E-210")
async def test_slot_actions_wait_for_a_busy_slot(start: Start, tmp_path: Path) -> None:
    backend = ToyBackend(random_logits, hold=True)
    engine = start(backend)
    running = asyncio.create_task(generate_answer(engine, A, n_predict=4, id_slot=0))
    await backend.wait_for_forward()
    erased = asyncio.create_task(engine.erase_slot(0))
    backend.allow_forward(2)
    await backend.wait_for_forward()
    assert not erased.done()
    backend.allow_forward(100)
    assert (await running).finish.n_predicted == 4
    assert await erased == 23


@pytest.mark.inventory("E-190", "E-192")
async def test_slots_reports_the_current_state(start: Start) -> None:
    backend = ToyBackend(random_logits, hold=True, n_slots=2)
    engine = start(backend)
    assert [slot.state for slot in engine.slots()] == ["idle", "idle"]
    assert [slot.id_task for slot in engine.slots()] == [-1, -1]
    running = asyncio.create_task(generate_answer(engine, A, n_predict=4, id_slot=1))
    await backend.wait_for_forward()
    busy = engine.slots()[1]
    assert (busy.state, busy.id_task, busy.n_prompt, busy.n_decoded, busy.n_remain) == ("prompt", 0, 20, 0, 4)
    assert engine.stats().requests_processing == 1
    backend.allow_forward()
    await backend.wait_for_forward()
    assert engine.slots()[1].state == "generating"
    backend.allow_forward(100)
    await running
    done = engine.slots()[1]
    assert (done.state, done.n_decoded, done.n_remain, done.stop_type, done.n_tokens) == ("idle", 4, 0, "limit", 23)


@pytest.mark.inventory("E-201", "E-204")
async def test_stats_counts_tokens_and_passes(start: Start) -> None:
    engine = start(ToyBackend(random_logits, n_slots=2, n_ctx=64))
    await generate_answer(engine, A, n_predict=4)
    await generate_answer(engine, A, n_predict=4)
    stats = engine.stats()
    assert (stats.n_decode, stats.n_busy_slots) == (8, 8)
    assert (stats.prompt_tokens, stats.prompt_tokens_cached, stats.predicted_tokens) == (21, 19, 8)
    assert (stats.cache_tokens, stats.cache_size) == (23, 128)
    assert (stats.requests_processing, stats.requests_deferred, stats.requests_rejected) == (0, 0, 0)
    assert stats.prompt_seconds > 0
