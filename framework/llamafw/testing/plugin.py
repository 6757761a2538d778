"""Fixtures for the tests of plugins: pytest finds them wherever llamafw is installed.

* ``tiny_model``: the file of a random Llama with a few hundred tokens and a chat template.
* ``write_model``: ``write_model(types="Q8_0", metadata={…}, …)``, the file of another; see `tiny.write_tiny_gguf`.
* ``serve``: ``async with serve(model=…, **settings) as client``, a server in this process and an httpx client of it.
* ``serve_http``: ``async with serve_http(…) as url``, the same on a port of this machine.

Servers have all installed plugins, and those of ``plugin=(…)``. Without other settings they run `DeterministicBackend`
on ``tiny_model``, and hold every response against the API document. Suites to subclass are in
`llamafw.testing.conformance`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp

    from llamafw.settings import Settings

SECONDS = 60  # for a model to load

pytest.register_assert_rewrite("llamafw.testing.conformance")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the filters are read
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Ignore what connexion is warned of when it is imported: who tests a plugin can do nothing about it."""
    deprecated = r"jsonschema\.(RefResolver|exceptions\.RefResolutionError) is deprecated"
    early_config.addinivalue_line("filterwarnings", f"ignore:{deprecated}:DeprecationWarning")
    return (yield)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a tiny random model."""
    from llamafw.testing.tiny import write_tiny_gguf

    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes other tiny models."""
    from llamafw.testing.tiny import write_tiny_gguf

    return partial(write_tiny_gguf, tmp_path / "model.gguf")


@pytest.fixture
def serve(tiny_model: Path) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """Return what starts servers in this process."""
    import httpx

    @contextlib.asynccontextmanager
    async def serve(*, model: Path = tiny_model, **given: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with (
            running(model, small_settings(**given)) as asgi,
            httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as client,
        ):
            yield client

    return serve


@pytest.fixture
def serve_http(tiny_model: Path) -> Callable[..., AbstractAsyncContextManager[str]]:
    """Return what starts servers on a port."""
    import uvicorn

    from llamafw.server.run import bind, url

    @contextlib.asynccontextmanager
    async def serve_http(*, model: Path = tiny_model, **given: Any) -> AsyncIterator[str]:
        async with running(model, small_settings(**given)) as asgi:
            server = uvicorn.Server(uvicorn.Config(asgi, lifespan="off", ws="none", log_level="error"))
            sockets = bind("127.0.0.1", 0)
            task = asyncio.create_task(server.serve(sockets))
            try:
                yield url(sockets[0])
            finally:
                server.should_exit = True
                await task

    return serve_http


def small_settings(**given: Any) -> Settings:
    """Return settings for a small server."""
    from llamafw.settings import Settings

    usual: dict[str, Any] = {"backend": "deterministic", "parallel": 2, "validate_responses": True}
    return Settings(**usual | given)


@contextlib.asynccontextmanager
async def running(model: Path, settings: Settings) -> AsyncIterator[ASGIApp]:
    """Build a server with these settings; yield it when its model is loaded, or raise why it could not be."""
    from llamafw.cli.parser import load_plugins
    from llamafw.engine.load import load_model
    from llamafw.server.app import build_app

    plugins = load_plugins(settings, extra=["llamafw.testing.backend"])
    settled = asyncio.Event()
    error: list[BaseException] = []

    def load() -> Any:
        try:
            return load_model(model, settings, plugins, lambda line: None)
        except BaseException as exc:
            error.append(exc)
            raise

    asgi, app, loading = build_app(settings, plugins, load, failed=settled.set)
    async with loading.lifespan(None):
        async with asyncio.timeout(SECONDS):
            while app.model is None and not settled.is_set():  # noqa: ASYNC110  # a thread will end it
                await asyncio.sleep(0.001)
        if error:
            raise error[0]
        yield asgi
