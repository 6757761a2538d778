"""Drafts on the Numba backend: models of every kind write the same text with and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from llamafw import Settings
from llamafw.engine import BatchingEngine, EngineOptions
from llamafw.engine.load import load_model
from llamafw.engine.speculation import SpeculationOptions
from llamafw.plugins import Plugins
from llamafw.testing.adapters import write_control_vector
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_plugins.drafters.draft_mtp import DraftMtp
from llamafw_plugins.drafters.draft_simple import DraftSimple
from llamafw_plugins.drafters.ngram_map_k import NgramMapK
from llamafw_plugins.drafters.ngram_simple import NgramSimple
from support import predicting_models
from support.numba_backend import make_context, open_backend
from support.toy_model import N_VOCAB, Answer, ToyTokenizer, generate_answer

Start = Callable[..., AbstractAsyncContextManager[BatchingEngine]]

NAMES = ("llama", "qwen35", "nemotron_h", "lfm2", "mamba2", "gemma3", "gpt-oss", "deepseek2-v3")
ALWAYS = SpeculationOptions(adaptive=False)
PROMPTS = [[(7 * i * i + 3 * i + k) % 60 for i in range(40)] for k in range(3)]
SAMPLED: dict[str, Any] = {
    "samplers": ("penalties", "top_k", "temperature"),
    "options": {
        "temperature": 0.7, "top_k": 8, "repeat_penalty": 1.1, "repeat_last_n": 16, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "penalize_nl": True,
    },
}  # fmt: skip

PURE: dict[str, Any] = {"samplers": ("top_k", "temperature"), "options": {"temperature": 1.5, "top_k": 20}}


@contextmanager
def opened(name: str, folder: Path, **options: Any) -> Iterator[Any]:
    """Open the tiny model of an architecture."""
    (checkpoint,) = [one for one in all_checkpoints() if one.name == name]
    path = write(checkpoint, folder / f"{name}.gguf")
    with open_backend(path, **{"n_ctx": 128, "n_slots": 3, "n_ubatch": 16} | options) as backend:
        yield backend


@contextmanager
def opened_with_block(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a tiny model and its block for multi-token prediction."""
    context = replace(make_context(path, n_ctx=128, n_slots=3, n_ubatch=16), keeps_hidden=True)
    with closing(NumbaBackend(context)) as backend:
        assert context.graph.prediction is not None
        yield backend, NumbaBackend(replace(context, graph=context.graph.prediction, beside=backend))


@pytest.fixture
def started(samplers: Mapping[str, Any]) -> Start:
    """Return a function that starts an engine: ``async with started(backend, **options) as engine``."""

    @asynccontextmanager
    async def start(backend: Any, **options: Any) -> AsyncIterator[BatchingEngine]:
        engine = BatchingEngine(backend, ToyTokenizer(), samplers, EngineOptions(n_batch=64, **options))
        yield engine
        await engine.stop(10)

    return start


async def answers(engine: BatchingEngine, **fields: Any) -> list[Answer]:
    """Return the answers to all prompts, which run at the same time."""
    common = {"n_predict": 40, "ignore_eos": True, "n_probs": 2, "logprobs": True} | fields
    return await asyncio.gather(
        *(generate_answer(engine, prompt, seed=i, **common) for i, prompt in enumerate(PROMPTS))
    )


@pytest.mark.parametrize("fields", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", NAMES)
async def test_text_and_logprobs_are_the_same_with_n_grams(
    started: Start, name: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    with opened(name, tmp_path) as backend:
        async with started(backend) as engine:
            expected = await answers(engine, **fields)
    drafters = {"simple": NgramSimple(1, 7), "map": NgramMapK(1, 5)}
    with opened(name, tmp_path) as backend:
        async with started(backend, drafters=drafters, speculation=ALWAYS) as engine:
            for _ in range(2):  # the second time with earlier answers and with what is cached
                got = await answers(engine, **fields)
                assert [answer.tokens for answer in got] == [answer.tokens for answer in expected]
    timings = [answer.finish.timings for answer in got]
    assert sum(one.draft_n for one in timings) > 60
    assert sum(one.draft_n_accepted for one in timings) > 0
    if fields:
        assert sum(one.draft_n_accepted for one in timings) < sum(one.draft_n for one in timings)


@pytest.mark.parametrize("fields", [{}, SAMPLED, PURE], ids=["greedy", "sampled", "sampled without penalties"])
@pytest.mark.parametrize("draft_name", ["llama", "qwen35"])
@pytest.mark.parametrize("name", ["llama", "qwen35"])
async def test_text_is_the_same_with_a_draft_model(
    started: Start, name: str, draft_name: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    with opened(name, tmp_path) as backend:
        async with started(backend) as engine:
            expected = await answers(engine, **fields)
    with opened(name, tmp_path) as backend, opened(draft_name, tmp_path) as small:
        drafters = {"model": DraftSimple(small, N_VOCAB, 5, 64)}
        async with started(backend, drafters=drafters, speculation=ALWAYS) as engine:
            got = await answers(engine, **fields)
    assert [answer.tokens for answer in got] == [answer.tokens for answer in expected]
    n = sum(answer.finish.timings.draft_n for answer in got)
    assert n > 60
    if name == draft_name and fields != SAMPLED:  # all guesses are right
        assert sum(answer.finish.timings.draft_n_accepted for answer in got) > 0.9 * n


@pytest.mark.parametrize("fields", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("is_predictable", [False, True], ids=["random", "predictable"])
@pytest.mark.parametrize("name", predicting_models.NAMES)
async def test_text_is_the_same_with_the_models_own_block(
    started: Start, name: str, is_predictable: bool, fields: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = predicting_models.find(name)
    write_model = predicting_models.write_predictable if is_predictable else write
    path = write_model(checkpoint, tmp_path / "model.gguf")
    with open_backend(path, n_ctx=128, n_slots=3, n_ubatch=16) as backend:
        async with started(backend) as engine:
            expected = await answers(engine, **fields)
    with opened_with_block(path) as (backend, block):
        drafters = {"mtp": DraftMtp(block, N_VOCAB, 4)}
        async with started(backend, drafters=drafters, speculation=ALWAYS) as engine:
            for _ in range(2):  # the second time with what is cached
                got = await answers(engine, **fields)
                assert [answer.tokens for answer in got] == [answer.tokens for answer in expected]
    timings = [answer.finish.timings for answer in got]
    n = sum(one.draft_n for one in timings)
    assert n > 40
    if is_predictable and not fields:  # all guesses are right but end-of-generation tokens, which are forbidden
        assert sum(one.draft_n_accepted for one in timings) > 0.9 * n


async def test_weights_are_not_loaded_twice(tmp_path: Path) -> None:
    path = write(predicting_models.find("qwen35-mtp-tied"), tmp_path / "model.gguf")
    with opened_with_block(path) as (backend, block), closing(block):
        n_matrix = 4 * 320 * 64  # the embedding, which is also the output matrix
        assert n_matrix < backend.describe()["weight_bytes"]
        with open_backend(path, change=lambda graph: graph.prediction) as alone:
            assert alone.describe()["weight_bytes"] - block.describe()["weight_bytes"] >= n_matrix


async def test_models_own_block_works_beside_adapters(tmp_path: Path) -> None:
    """The block guesses with the hidden states of the model with its adapters."""
    path = write(predicting_models.find("qwen35-mtp-tied"), tmp_path / "model.gguf")
    vector = write_control_vector(tmp_path / "v.gguf", {1: np.linspace(-9, 9, 64, dtype=np.float32)})
    found: dict[tuple[str, ...], list[str]] = {}
    drafted = 0
    for names in ((), ("draft-mtp",)):
        settings = Settings(
            ctx_size=256, parallel=2, threads=1, control_vector=(str(vector),), spec_type=names, spec_auto=False
        )
        engine = load_model(path, settings, Plugins(), lambda line: None).engine
        for adapters in (None, ()):
            answer = await generate_answer(
                engine, PROMPTS[0], n_predict=20, ignore_eos=True, control_vectors=adapters, n_probs=1, logprobs=True
            )
            found.setdefault(names, []).append(str(answer.tokens))
            drafted += answer.finish.timings.draft_n
        await engine.stop(10)
    assert found[()] == found["draft-mtp",]
    assert found[()][0] != found[()][1]
    assert drafted > 20
