"""An idle engine unloads its backend, and loads it again for the next request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from llamafw import EmbedRequest, ModelError, Settings, Unavailable
from llamafw.engine import BatchingEngine
from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.side_models import find_side_models
from llamafw.engine.speculation import SpeculationOptions
from llamafw.engine.unloadable_backend import UnloadableBackend
from llamafw.engine.unloadable_drafter import UnloadableDrafter
from llamafw.plugins import Plugins
from support.toy_drafters import KnowingDrafter
from support.toy_model import ToyBackend, generate_answer, random_logits
from support.toy_snapshots import RecurrentToyBackend

Start = Callable[..., BatchingEngine]
A, B = tuple(range(80)), tuple(range(80, 160))


class Sleeper(UnloadableBackend):
    """An `UnloadableBackend` of toy backends that tells when it was unloaded."""

    def __init__(self, kind: type[ToyBackend] = ToyBackend, adapted: Any = None) -> None:
        self.loaded: list[ToyBackend] = []
        self.unloaded = threading.Semaphore(0)
        self.error: Exception | None = None

        def load(adapted: Any) -> Any:
            if self.error is not None:
                raise self.error
            self.loaded.append(kind(random_logits, n_slots=2, n_ctx=256, n_batch=256))
            if hasattr(kind, "set_adapters"):
                cast("Any", self.loaded[-1]).set_adapters(adapted)
            return self.loaded[-1]

        super().__init__(load, adapted=adapted)

    def unload(self) -> None:
        super().unload()
        self.unloaded.release()

    async def wait(self) -> None:
        """Wait until it was unloaded once more."""
        assert await asyncio.to_thread(self.unloaded.acquire, timeout=60)

    # of the fixture `start`
    def allow_forward(self, n: int = 1) -> None:
        pass

    @property
    def closed(self) -> bool:
        return all(backend.closed for backend in self.loaded)


@pytest.fixture
def sleeping(start: Start) -> Callable[..., BatchingEngine]:
    """Return a function that starts an engine that sleeps whenever it has nothing to do."""

    def make(backend: Sleeper, **options: Any) -> BatchingEngine:
        return start(cast("ToyBackend", backend), sleep_after=0.0, prompt_cache=10_000_000, **options)

    return make


@pytest.mark.inventory("V-11")
async def test_next_request_wakes_the_engine(sleeping: Callable[..., BatchingEngine]) -> None:
    backend = Sleeper()
    engine = sleeping(backend)
    await backend.wait()
    answers = []
    for i in range(3):
        assert not backend.is_loaded
        answers.append(await generate_answer(engine, A, n_predict=4))
        assert len(backend.loaded) == i + 2
        await backend.wait()
    assert [answer.finish.n_cached for answer in answers] == [0, 0, 0]  # the caches are gone
    assert answers[0].ids == answers[1].ids == answers[2].ids


async def test_state_is_reported_while_it_sleeps(sleeping: Callable[..., BatchingEngine]) -> None:
    backend = Sleeper()
    engine = sleeping(backend)
    await backend.wait()
    await generate_answer(engine, A, n_predict=4)
    await backend.wait()
    stats = engine.stats()
    assert (stats.cache_tokens, stats.prompt_cache_bytes, stats.predicted_tokens) == (0, 0, 4)
    assert [(slot.state, slot.n_tokens) for slot in engine.slots()] == [("idle", 0), ("idle", 0)]
    assert (engine.n_slots, engine.n_ctx) == (2, 256)


async def test_busy_engine_does_not_sleep(start: Start) -> None:
    backend = Sleeper()
    engine = start(cast("ToyBackend", backend), sleep_after=1e6)
    await generate_answer(engine, A, n_predict=20)
    assert (engine.stats().sleeping, len(backend.loaded)) == (False, 1)


@pytest.mark.parametrize("kind", [ToyBackend, RecurrentToyBackend])
async def test_caches_survive_on_the_disk(
    sleeping: Callable[..., BatchingEngine], tmp_path: Path, kind: type[ToyBackend]
) -> None:
    backend = Sleeper(kind)
    engine = sleeping(backend, disk_cache=DiskCache(tmp_path, 2**30, bytes(32), 256))
    await backend.wait()
    answers = []
    for prompt in (A, B, (*A, 1), (*B, 1)):
        answers.append(await generate_answer(engine, prompt, n_predict=4))
        await backend.wait()
    assert [answer.finish.n_cached for answer in answers[:2]] == [0, 0]
    assert all(answer.finish.n_cached >= 64 for answer in answers[2:])
    fresh = await generate_answer(engine, (*A, 1), n_predict=4, cache_prompt=False)
    assert answers[2].ids == fresh.ids


async def test_slot_actions_wake_the_engine(sleeping: Callable[..., BatchingEngine], tmp_path: Path) -> None:
    backend = Sleeper()
    engine = sleeping(backend)
    await backend.wait()
    assert await engine.erase_slot(0) == 0
    assert len(backend.loaded) == 2


async def test_model_that_cannot_be_loaded_again_is_503(sleeping: Callable[..., BatchingEngine]) -> None:
    backend = Sleeper()
    engine = sleeping(backend)
    await backend.wait()
    backend.error = OSError("the file is gone")
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be loaded again") as caught:
            await generate_answer(engine, A, n_predict=4)
        assert "gone" not in caught.value.message
    with pytest.raises(Unavailable):
        await engine.erase_slot(0)
    assert engine.stats().sleeping
    backend.error = None
    assert (await generate_answer(engine, A, n_predict=4)).finish.n_predicted == 4


class DraftSleeper(UnloadableDrafter):
    """An `UnloadableDrafter` of drafters that know a text."""

    def __init__(self, text: tuple[int, ...]) -> None:
        self.created: list[KnowingDrafter] = []
        self.error: Exception | None = None

        def create() -> KnowingDrafter:
            if self.error is not None:
                raise self.error
            self.created.append(KnowingDrafter([text]))
            return self.created[-1]

        super().__init__(create, create())


async def test_drafters_sleep_and_wake(sleeping: Callable[..., BatchingEngine]) -> None:
    expected = await generate_answer(sleeping(Sleeper()), A, n_predict=20, ignore_eos=True)
    backend, drafter = Sleeper(), DraftSleeper((*A, *expected.finish.tokens))
    engine = sleeping(backend, drafters={"knowing": drafter}, speculation=SpeculationOptions(adaptive=False))
    await backend.wait()
    for n in range(1, 3):
        assert (len(drafter.created), drafter.is_loaded, drafter.created[-1].closed) == (n, False, True)
        answer = await generate_answer(engine, A, n_predict=20, ignore_eos=True)
        await backend.wait()
        assert answer.tokens == expected.tokens
        assert answer.finish.timings is not None
        assert answer.finish.timings.draft_n_accepted > 10
    await engine.stop(1)
    assert [one.closed for one in drafter.created] == [True] * 3


async def test_drafter_that_cannot_be_loaded_again_is_503(sleeping: Callable[..., BatchingEngine]) -> None:
    backend, drafter = Sleeper(), DraftSleeper(A)
    engine = sleeping(backend, drafters={"knowing": drafter})
    await backend.wait()
    drafter.error = MemoryError("no memory")
    for _ in range(2):
        with pytest.raises(Unavailable, match="the model for drafts cannot be loaded again"):
            await generate_answer(engine, A, n_predict=4)
        assert engine.stats().sleeping
        assert not backend.is_loaded
    drafter.error = None
    assert (await generate_answer(engine, A, n_predict=4)).finish.n_predicted == 4
    assert len(drafter.created) == 2


async def test_drafter_that_cannot_be_closed_sleeps(sleeping: Callable[..., BatchingEngine], caplog: Any) -> None:
    drafter = DraftSleeper(A)
    drafter.created[0].closed = True  # now it refuses to be closed
    backend = Sleeper()
    engine = sleeping(backend, drafters={"knowing": drafter})
    await backend.wait()
    assert "the drafter knowing cannot be closed" in caplog.text
    assert (await generate_answer(engine, A, n_predict=4)).finish.n_predicted == 4
    assert len(drafter.created) == 2


async def test_models_beside_the_first_one_sleep(tiny_model: Path) -> None:
    plugins = Plugins(extra=("llamafw.testing.backend",))
    settings = Settings(
        backend="deterministic",
        embedding_model=str(tiny_model),
        reranking_model=str(tiny_model),
        sleep_idle_seconds=600,
    )
    found = find_side_models(settings, plugins)
    assert [side.field for side in found] == ["embedder", "reranker"]
    for side in found:
        engine: Any = side.load(plugins, lambda line: None).engine
        engine._thread._sleep()  # the thread itself waits for requests
        assert not engine._backend.is_loaded
        await engine.embed(EmbedRequest((1, 2, 3)))
        assert engine._backend.is_loaded
        await engine.stop(1)


async def test_sleeping_engine_stops(sleeping: Callable[..., BatchingEngine]) -> None:
    backend = Sleeper()
    engine = sleeping(backend)
    await backend.wait()
    await engine.stop(1)
    assert backend.closed


class AdaptingToyBackend(ToyBackend):
    """A toy backend that records which adapters it has."""

    adapted: Any = None

    def set_adapters(self, context: Any) -> None:
        """See `llamafw.AdaptingBackend`."""
        self.adapted = context


def test_adapters_are_there_again_after_sleep() -> None:
    backend = Sleeper(AdaptingToyBackend, adapted=cast("Any", "those of the start"))
    for others in ("those of the start", "others", None):
        if others != "those of the start":
            cast("Any", backend).set_adapters(others)
        backend.unload()
        backend.load()
        assert cast("Any", backend.loaded[-1]).adapted == others
    assert len(backend.loaded) == 4
    assert not hasattr(Sleeper(), "set_adapters")


def test_backend_that_cannot_be_loaded_keeps_its_adapters() -> None:
    backend = Sleeper(AdaptingToyBackend)
    cast("Any", backend).set_adapters("others")
    backend.unload()
    backend.error = ModelError("the file of the adapter is gone")
    for _ in range(2):
        with pytest.raises(ModelError, match="gone"):
            backend.load()
        assert not backend.is_loaded
    assert backend.closed
    backend.error = None
    backend.load()
    assert cast("Any", backend.loaded[-1]).adapted == "others"
