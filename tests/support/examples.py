"""Fixtures for the tests of ``examples/``: ``pytest -p support.examples``. All installed plugins are there."""
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.types import ASGIApp

from llamafw import Backend, BackendContext, Batch, Floats, Register, Settings, hookimpl
from llamafw.engine.load import load_model
from llamafw.plugins import Plugins
from llamafw.server.app import build
from llamafw.server.run import bind, url
from support.opened import until_loaded
from support.tiny import write_tiny_gguf
from support.toy import ToyBackend

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


class Toy(ToyBackend):
    """It may be warmed up on another thread than the engine's."""

    def _check(self, batch: Batch) -> None:
        self.thread = None
        super()._check(batch)


@hookimpl
def register_backends(register: Register) -> None:
    """A backend that computes nothing: scores are a function of the tokens before."""
    register("toy", make)


def make(context: BackendContext) -> Backend:
    n_vocab = context.decoder.n_vocab

    def scores(prefix: Sequence[int]) -> Floats:
        return np.random.default_rng(prefix[-4:]).standard_normal(n_vocab).astype(np.float32)

    backend = Toy(scores, n_slots=context.options.n_slots, n_ctx=512, n_batch=512)
    backend.n_vocab = n_vocab
    return backend


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama model with a tokenizer and a chat template."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """``write_model(types="Q8_0", …)``: the file of another tiny model."""
    return partial(write_tiny_gguf, tmp_path / "model.gguf")


@pytest.fixture
def serve(tiny_model: Path) -> Serve:
    """``async with serve(model=…, **settings) as client``: a server in this process, and an httpx client of it."""

    @contextlib.asynccontextmanager
    async def serve(*, model: Path = tiny_model, **given: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with running(model, toy_settings(**given)) as asgi, httpx.AsyncClient(
            transport=httpx.ASGITransport(asgi), base_url="http://test"
        ) as client:
            yield client

    return serve


@pytest.fixture
def serve_http(tiny_model: Path) -> Callable[..., AbstractAsyncContextManager[str]]:
    """``async with serve_http(…) as url``: the same on a port of this machine."""

    @contextlib.asynccontextmanager
    async def serve_http(*, model: Path = tiny_model, **given: Any) -> AsyncIterator[str]:
        async with running(model, toy_settings(**given)) as asgi:
            server = uvicorn.Server(uvicorn.Config(asgi, lifespan="off", ws="none", log_level="error"))
            sockets = bind("127.0.0.1", 0)
            task = asyncio.create_task(server.serve(sockets))
            try:
                yield url(sockets[0])
            finally:
                server.should_exit = True
                await task

    return serve_http


def toy_settings(**given: Any) -> Settings:
    """Return settings for a small server that holds its responses against the document."""
    return Settings(**{"backend": "toy", "parallel": 2, "validate_responses": True} | given)


@contextlib.asynccontextmanager
async def running(model: Path, settings: Settings) -> AsyncIterator[ASGIApp]:
    """Build the application with these settings; yield it when its model is loaded."""
    plugins = Plugins(extra=[__name__, *settings.plugin], block=settings.no_plugin)
    asgi, app, loading = build(settings, plugins, partial(load_model, model, settings, plugins, lambda line: None))
    async with loading.lifespan(None):
        await until_loaded(app)
        yield asgi
