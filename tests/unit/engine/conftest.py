"""Fixture that starts engines with the toy model and stops them after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from llamafw.engine import BatchingEngine, EngineOptions
from support.toy_model import ToyBackend, ToyTokenizer


@pytest.fixture
async def start(samplers: Mapping[str, Any]) -> AsyncIterator[Callable[..., BatchingEngine]]:
    """Return a function that starts an engine: ``start(backend, **options)``."""
    engines: list[tuple[BatchingEngine, ToyBackend]] = []

    def make(backend: ToyBackend, **more: Any) -> BatchingEngine:
        plugins = {name: more.pop(name) for name in ("finished", "grammars") if name in more}
        chosen = more.pop("samplers", samplers)
        engine = BatchingEngine(backend, ToyTokenizer(), chosen, EngineOptions(**{"n_batch": 32} | more), **plugins)
        engines.append((engine, backend))
        return engine

    yield make
    for engine, backend in engines:
        backend.allow_forward(10_000)
        await engine.stop(10)
        assert backend.closed
