"""The pytest plugin that llamafw installs: fixtures for the tests of plugins.

* ``tiny_model``: the path of a random Llama model with a few hundred tokens and a chat template.
* ``write_model``: ``write_model(types="Q8_0", metadata={…}, …)`` writes another model; see `tiny.write_tiny_gguf`.
* ``serve``: ``async with serve(model=…, **settings) as client`` starts a server in this process; ``client`` is an
  ``httpx.AsyncClient`` for it.
* ``serve_http``: ``async with serve_http(…) as url`` starts the same server on a local port.

Servers load all installed plugins and those of ``plugin=(…)``. By default they run ``tiny_model`` on
`DeterministicBackend` and validate every response against the API document.
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

    from llamafw.plugins import Plugins
    from llamafw.serving import LoadedModel
    from llamafw.settings import Settings

LOAD_TIMEOUT = 300  # seconds; the first model of a fresh installation waits for Numba to compile its kernels

pytest.register_assert_rewrite("llamafw.testing.conformance")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest reads the filters
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Ignore the deprecation warnings of connexion's import, which authors of plugins cannot fix."""
    deprecated = r"jsonschema\.(RefResolver|exceptions\.RefResolutionError) is deprecated"
    early_config.addinivalue_line("filterwarnings", f"ignore:{deprecated}:DeprecationWarning")
    return (yield)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a tiny random model."""
    from llamafw.testing.tiny import write_tiny_gguf

    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a tiny model with other properties: ``write_model(n_layer=4, tied=False, …)``.

    Its arguments are those of `tiny.write_tiny_gguf` except the path: sizes such as ``n_vocab``, tensor ``types``,
    ``metadata`` and ``tensors`` to add or replace, and others.
    """
    from llamafw.testing.tiny import write_tiny_gguf

    return partial(write_tiny_gguf, tmp_path / "model.gguf")


@pytest.fixture
def serve(tiny_model: Path) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """Return a function that starts a server in this process."""
    import httpx

    @contextlib.asynccontextmanager
    async def serve(*, model: Path = tiny_model, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with (
            serve_in_process(model, small_settings(**settings)) as asgi,
            httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as client,
        ):
            yield client

    return serve


@pytest.fixture
def serve_http(tiny_model: Path) -> Callable[..., AbstractAsyncContextManager[str]]:
    """Return a function that starts a server on a local port."""
    import uvicorn

    from llamafw.server.sockets import bind

    @contextlib.asynccontextmanager
    async def serve_http(*, model: Path = tiny_model, **settings: Any) -> AsyncIterator[str]:
        async with serve_in_process(model, small_settings(**settings)) as asgi:
            server = uvicorn.Server(uvicorn.Config(asgi, lifespan="off", ws="none", log_level="error"))
            (listener,) = bind("127.0.0.1", 0)
            task = asyncio.create_task(server.serve([*listener.sockets]))
            try:
                yield listener.url()
            finally:
                server.should_exit = True
                await task

    return serve_http


def small_settings(**settings: Any) -> Settings:
    """Return settings for a small server on the deterministic backend; ``settings`` override them."""
    from llamafw.settings import Settings

    defaults: dict[str, Any] = {"backend": "deterministic", "parallel": 2, "validate_responses": True}
    return Settings(**defaults | settings)


@contextlib.asynccontextmanager
async def serve_in_process(model: Path, settings: Settings, plugins: Plugins | None = None) -> AsyncIterator[ASGIApp]:
    """Build a server, load its model, and yield the ASGI application.

    Parameters
    ----------
    model : Path
        The model file.
    settings : Settings
        Settings of the server.
    plugins : Plugins, optional
        The server's plugins; by default those that the settings ask for, and `DeterministicBackend`.

    Raises
    ------
    Exception
        The model cannot be loaded. It is the exception that was raised while loading.
    """
    from llamafw.engine.load import load_model
    from llamafw.engine.side_models import find_side_models, load_models
    from llamafw.server.in_process import run_in_process

    plugins = plugins or load_plugins(settings)

    def ignore(line: str) -> None:
        """Drop a line about the progress."""

    def load() -> LoadedModel:
        load_first = partial(load_model, model, settings, plugins, ignore)
        return load_models(load_first, find_side_models(settings, plugins), plugins, ignore)

    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(LOAD_TIMEOUT):
            asgi = await stack.enter_async_context(run_in_process(settings, plugins, load))
        yield asgi


def load_plugins(settings: Settings) -> Plugins:
    """Return the plugins that the settings ask for, and `DeterministicBackend`."""
    from llamafw.cli import read_settings

    return read_settings.load_plugins(settings, extra=["llamafw.testing.backend"])
