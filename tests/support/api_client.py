"""Serve the API of `support.api` in this process, to an httpx client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from llamafw.server.running_app import RunningApp
from support import api

OpenClient = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
"""Takes settings as keyword arguments, and returns a context manager that yields a client."""


async def wait_until_loaded(app: RunningApp) -> None:
    """Wait until the model is loaded."""
    async with asyncio.timeout(10):
        while app.model is None:  # noqa: ASYNC110  # another thread sets it
            await asyncio.sleep(0)


def client_opener(plugins: Plugins) -> OpenClient:
    """Return a function that serves the API with the given settings and yields a client.

    The function waits until the model is loaded, unless its argument ``wait`` is false. Its argument ``load`` replaces
    `support.api.load`.
    """

    @contextlib.asynccontextmanager
    async def open_client(
        *, load: Any = api.load, wait: bool = True, **settings: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        asgi, app, loader = build_app(Settings(**settings), plugins, load, document=api.DOCUMENT)
        transport = httpx.ASGITransport(asgi)
        async with (
            loader.lifespan(None),
            httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client,
        ):
            if wait:
                await wait_until_loaded(app)
            yield client

    return open_client
