"""The estimate of memory counts draft models, adapters, and models for embeddings, as a loaded server has them."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from checkpoints import write
from llamafw import Model, Settings, SettingsError, Unavailable
from llamafw import graph as g
from llamafw.cli.serve import prepare_model
from llamafw.engine import load as load_module
from llamafw.engine import side_models
from llamafw.engine.components import build_graph
from llamafw.engine.load import load_model, open_header, open_model
from llamafw.engine.machine_memory import Memory
from llamafw.engine.memory_companions import find_companions
from llamafw.engine.memory_estimate import Companions, MemoryEstimate, cpu_options, estimate
from llamafw.engine.memory_fit import check_memory, fit
from llamafw.engine.side_models import find_side_models, needed_beside
from llamafw.plugins import Plugins
from llamafw.serving import LoadedModel
from llamafw.testing.adapters import random_factors, write_control_vector, write_lora
from llamafw.testing.tiny import write_tiny_gguf
from support.predicting_models import find
from support.toy_model import generate_answer

GIB = 2**30


@dataclass(frozen=True)
class Files:
    """A model, and what can be loaded beside it."""

    model: Path
    draft: Path
    lora: Path
    vector: Path
    embedder: Path
    encoder: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("models")
    model = write_tiny_gguf(folder / "model.gguf", n_layer=4, n_ctx=4096)
    shapes = {f"blk.{i}.ffn_{role}.weight": (128, 64) for i in range(4) for role in ("gate", "up")}
    direction = next(iter(random_factors({"x": (1, 64)}, 1, 0).values())).reshape(-1)
    return Files(
        model,
        write_tiny_gguf(folder / "draft.gguf", n_layer=1, n_ctx=4096),
        write_lora(folder / "lora.gguf", random_factors(shapes, 16, 0)),
        write_control_vector(folder / "vector.gguf", {1: direction}),
        write_tiny_gguf(folder / "embedder.gguf", n_layer=3, n_ctx=8192),
        write(find("bert"), folder / "encoder.gguf"),
    )


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


def opened(path: Path, settings: Settings, plugins: Plugins) -> tuple[Model, g.Graph, Companions]:
    """Return a model, its graph, and what its server loads beside it."""
    model = open_model(path, settings, plugins)
    graph = build_graph(model, plugins)
    companions = find_companions(model, graph, settings, plugins, partial(open_header, plugins=plugins))
    return model, graph, companions.beside(needed_beside(find_side_models(settings, plugins)))


def needed(path: Path, settings: Settings, plugins: Plugins) -> MemoryEstimate:
    """Return the estimate of a server."""
    model, graph, companions = opened(path, settings, plugins)
    options = cpu_options(settings, graph, Memory(1000 * GIB, 0))
    return estimate(model, graph, options, companions, is_cache_set=settings.ctx_size != 0)


# --- what a loaded server has


@pytest.fixture(scope="module")
def loaded(files: Files, plugins: Plugins) -> Iterator[tuple[Any, MemoryEstimate]]:
    """A server with a draft model and an adapter, and its estimate."""
    settings = Settings(
        threads=1,
        ctx_size=4096,
        parallel=2,
        ubatch_size=64,
        batch_size=64,
        spec_draft_model=str(files.draft),
        lora=(str(files.lora),),
    )
    engine: Any = load_model(files.model, settings, plugins, lambda line: None).engine
    yield engine, needed(files.model, settings, plugins)
    engine._thread.stop(60)  # without an event loop


def held_bytes(engine: Any) -> int:
    """Return the size of the files of an engine's adapters, which are in memory as they were read."""
    return sum(tensor.held_bytes for entry in engine.adapters._entries for tensor in entry.file.tensors.values())


def test_draft_model_takes_what_was_estimated(loaded: tuple[Any, MemoryEstimate]) -> None:
    engine, found = loaded
    backend = engine._worker._speculation._drafters["draft-simple"]._backend
    part = found.parts["draft model"]
    assert part.cache == pytest.approx(backend.describe()["cache_bytes"], rel=0.05)  # it has some pages more
    assert part.weights == pytest.approx(backend.describe()["weight_bytes"], rel=0.1)
    assert part.activations == pytest.approx(backend._step_bytes, rel=1)  # backends reuse memory in their own way
    assert (backend.n_slots, backend.n_ctx) == (2, 2048)


def test_adapters_take_what_was_estimated(loaded: tuple[Any, MemoryEstimate]) -> None:
    engine, found = loaded
    steps = engine._backend._adapted.steps
    part = found.parts["adapters"]
    assert part.weights == pytest.approx(steps.weights.n_bytes + held_bytes(engine), rel=0.1)
    assert part.activations == pytest.approx(steps.n_bytes, rel=1)  # as above
    assert part.cache == 0


def test_model_takes_what_was_estimated(loaded: tuple[Any, MemoryEstimate]) -> None:
    engine, found = loaded
    facts, part = engine._backend.describe(), found.parts["model"]
    assert part.cache == pytest.approx(facts["cache_bytes"], rel=0.05)
    assert part.weights == pytest.approx(facts["weight_bytes"], rel=0.1)


@pytest.mark.parametrize("kind", ["embedder", "encoder"])
def test_model_for_embeddings_takes_what_was_estimated(files: Files, plugins: Plugins, kind: str) -> None:
    settings = Settings(threads=1, embedding_model=str(getattr(files, kind)), embedding_ctx_size=256)
    part = needed(files.model, settings, plugins).parts["embedding model"]
    (side,) = find_side_models(settings, plugins)
    engine: Any = side.load(plugins, lambda line: None).engine
    backend = engine._backend
    facts = backend.describe()
    cache = facts["cache_bytes"]
    model = open_model(side.path, settings, plugins)
    tables = [tensor.n_bytes for name, tensor in model.tensors.items() if name.startswith(("token_", "position_"))]
    n_read = sum(tables) if kind == "encoder" else 0  # from the file; a decoder also multiplies by the embedding
    assert part.weights == pytest.approx(facts["weight_bytes"] + n_read, rel=0.1)
    if kind == "embedder":
        assert part.cache == pytest.approx(cache, rel=0.05)
    else:  # it keeps nothing, and computes whole batches
        assert part.cache == 0
        assert part.activations == pytest.approx(backend._step_bytes + cache, rel=1)
    engine._thread.stop(60)


@pytest.mark.parametrize("field", ["spec_draft_model", "embedding_model"])
def test_vocabularies_of_other_models_are_counted(files: Files, plugins: Plugins, tmp_path: Path, field: str) -> None:
    sizes, found = (1_000, 31_000), []
    for n in sizes:
        path = write_tiny_gguf(tmp_path / f"{n}.gguf", n_layer=1, n_vocab=n)
        settings = Settings(ctx_size=256, **{field: str(path)})  # type: ignore[arg-type]  # one of two fields
        parts = needed(files.model, settings, plugins).parts
        (part,) = [part for name, part in parts.items() if name != "model"]
        found.append(part.vocabulary)
        assert part.total == part.weights + part.cache + part.activations + part.vocabulary
        assert parts["model"].vocabulary == 0  # it is a part of the program

    tracemalloc.start()
    try:
        model = open_model(path, Settings(), plugins)
        n_held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(model.metadata["tokenizer.ggml.tokens"]) == sizes[1]
    assert 2 * n_held < found[1] < 8 * n_held  # with a tokenizer, whose memory Python does not trace
    assert found[0] < found[1] / 10


def test_parts_that_are_not_used_are_not_counted(files: Files, plugins: Plugins) -> None:
    plain = needed(files.model, Settings(), plugins)
    assert list(plain.parts) == ["model"]
    unused = Settings(spec_draft_model=str(files.draft), spec_type=("ngram-simple",))
    assert needed(files.model, unused, plugins) == plain
    assert "adapters" in needed(files.model, Settings(control_vector=(str(files.vector),)), plugins).parts


# --- refusals


def with_everything(files: Files, **changes: Any) -> Settings:
    """Return the settings of a server that loads something of each kind."""
    settings = Settings(
        threads=1,
        ctx_size=8192,
        parallel=2,
        spec_draft_model=str(files.draft),
        lora=(str(files.lora),),
        embedding_model=str(files.encoder),
        reranking_model=str(files.embedder),
        embedding_ctx_size=512,
    )
    return replace(settings, **changes)


def test_all_parts_must_fit(files: Files, plugins: Plugins) -> None:
    settings = with_everything(files)
    model, graph, companions = opened(files.model, settings, plugins)
    total = needed(files.model, settings, plugins).total
    assert check_memory(model, graph, settings, Memory(1000 * GIB, total), companions) is None
    names = ["draft model", "adapters", "embedding model", "reranking model"]
    with pytest.raises(SettingsError) as caught:
        check_memory(model, graph, settings, Memory(1000 * GIB, total - 1), companions)
    assert re.findall(r"GiB for the ([a-z]+(?: model)?)(?=[,)])", str(caught.value).partition("of this")[2]) == names


def test_suggested_context_fits_with_a_draft_model(files: Files, plugins: Plugins) -> None:
    settings = Settings(ctx_size=400_000, parallel=2, spec_draft_model=str(files.draft))
    model, graph, companions = opened(files.model, settings, plugins)
    memory = Memory(1000 * GIB, needed(files.model, settings, plugins).total // 2)
    with pytest.raises(SettingsError) as caught:
        check_memory(model, graph, settings, memory, companions)
    (found,) = re.findall(r"-c (\d+) would fit", str(caught.value))
    assert check_memory(model, graph, replace(settings, ctx_size=int(found)), memory, companions) is None
    larger = replace(settings, ctx_size=int(found) + 512)
    with pytest.raises(SettingsError):
        check_memory(model, graph, larger, memory, companions)


@pytest.mark.parametrize("field", ["spec_draft_model", "lora"])
def test_loading_counts_what_is_loaded_beside_the_model(
    files: Files, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    values = {"spec_draft_model": str(files.draft), "lora": (str(files.lora),)}
    settings = Settings(threads=1, ctx_size=8192, parallel=2)
    changed = replace(settings, **{field: values[field]})  # type: ignore[arg-type]  # one of two types
    totals = [needed(files.model, one, plugins).total for one in (settings, changed)]
    assert totals[0] < totals[1]
    monkeypatch.setattr("llamafw.engine.memory_fit.read_memory", lambda: Memory(1000 * GIB, totals[1] - 1))

    def refuse(*given: object) -> None:
        raise AssertionError("it is loaded")

    monkeypatch.setattr(load_module, "make_backend", refuse)
    with pytest.raises(SettingsError, match="the server needs about"):
        load_model(files.model, changed, plugins, lambda line: None)
    with pytest.raises(AssertionError, match="it is loaded"):
        load_model(files.model, settings, plugins, lambda line: None)


@pytest.mark.parametrize("at_start", [False, True])
async def test_waking_counts_the_adapters_that_are_loaded_by_then(
    files: Files, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, at_start: bool
) -> None:
    settings = Settings(threads=1, ctx_size=512, parallel=1, sleep_idle_seconds=600)
    adapted = replace(settings, lora=(str(files.lora),))
    n_free = 2**40
    monkeypatch.setattr("llamafw.engine.memory_fit.read_memory", lambda: Memory(2**40, n_free))
    loaded = load_model(files.model, adapted if at_start else settings, plugins, lambda line: None)
    engine: Any = loaded.engine

    async def wakes(settings: Settings, missing: int) -> bool:
        nonlocal n_free
        n_free = needed(files.model, settings, plugins).total - held_bytes(engine) - missing
        engine._thread._sleep()  # the thread itself waits for requests
        try:
            await engine.erase_slot(0)
        except Unavailable:
            return False
        return True

    if not at_start:
        assert await wakes(settings, missing=0)
        await engine.adapters.load(files.lora, 1.0)
    assert [await wakes(adapted, missing=n) for n in (1, 0)] == [False, True]
    assert (await generate_answer(engine, (1, 2, 3), lora=((0, 1.0),))).finish.n_predicted > 0
    await engine.adapters.unload(0)
    assert [await wakes(settings, missing=n) for n in (1, 0)] == [False, True]
    await engine.stop(60)


def test_all_models_are_checked_before_one_is_loaded(
    files: Files, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_everything(files, model=str(files.model))
    total = needed(files.model, settings, plugins).total
    n_free = total - 1
    monkeypatch.setattr("llamafw.engine.memory_fit.read_memory", lambda: Memory(1000 * GIB, n_free))
    with pytest.raises(SettingsError, match="for the reranking model"):
        prepare_model(settings, plugins, lambda line: None)
    n_free = total
    assert callable(prepare_model(settings, plugins, lambda line: None))


def test_model_that_is_loaded_last_leaves_memory_for_the_caches_of_others(
    files: Files, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(threads=1, embedding_model=str(files.embedder), embedding_ctx_size=8192)
    (side,) = find_side_models(settings, plugins)
    assert side.needed is not None
    given: dict[str, Any] = {}
    monkeypatch.setattr(side_models.SideModel, "load", lambda self, plugins, log: load_first())

    def load_first(**arguments: Any) -> Any:
        given.update(arguments)
        return LoadedModel.__new__(LoadedModel)

    with pytest.raises(AttributeError):  # it is not a model
        side_models.load_models(load_first, [side], plugins, lambda line: None)
    assert given == {"beside": {"embedding model": replace(side.needed, weights=0, vocabulary=0)}}
    assert side.needed.cache > 0


# --- contexts that the user does not set


def test_default_context_of_a_model_for_embeddings_is_a_warning(files: Files, plugins: Plugins) -> None:
    settings = Settings(ctx_size=512, parallel=1, embedding_model=str(files.embedder))
    model, graph, companions = opened(files.model, settings, plugins)
    total = needed(files.model, settings, plugins).total
    assert check_memory(model, graph, settings, Memory(1000 * GIB, total), companions) is None
    warning = check_memory(model, graph, settings, Memory(1000 * GIB, total - 1), companions)
    assert warning is not None
    assert "--embedding-ctx-size" in warning


def test_fit_counts_what_is_loaded_beside_the_model(files: Files, plugins: Plugins) -> None:
    contexts = []
    plain = Settings(fit=True, fit_target=0, fit_ctx=256)
    memory = Memory(1000 * GIB, needed(files.model, plain, plugins).total)
    for changes in ({}, {"spec_draft_model": str(files.draft)}, {"embedding_model": str(files.embedder)}):
        settings = replace(plain, **changes)  # type: ignore[arg-type]  # as above
        model, graph, companions = opened(files.model, settings, plugins)
        changed, _ = fit(model, graph, settings, memory, companions)
        assert check_memory(model, graph, changed, memory, companions) is None
        contexts.append(changed.ctx_size or 4 * 4096)
    assert contexts[0] == 4 * 4096
    assert all(256 <= n < contexts[0] for n in contexts[1:])


def test_fit_limits_the_context_of_a_model_for_embeddings(files: Files, plugins: Plugins) -> None:
    settings = Settings(fit=True, fit_ctx=1024, embedding_model=str(files.embedder))
    (side,) = find_side_models(settings, plugins)
    assert side.settings.ctx_size == 4 * 1024
    (side,) = find_side_models(replace(settings, embedding_ctx_size=2048), plugins)
    assert side.settings.ctx_size == 2048
    (side,) = find_side_models(replace(settings, embedding_model=str(files.encoder)), plugins)
    assert side.settings.ctx_size == 0
