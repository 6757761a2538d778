"""The application of `support.api` in this process, behind an httpx client."""

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

Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


async def until_loaded(app: RunningApp) -> None:
    """Return when the model is there."""
    async with asyncio.timeout(10):
        while app.model is None:  # noqa: ASYNC110  # a thread will end it
            await asyncio.sleep(0)


def opener(plugins: Plugins) -> Open:
    """Return a context manager: a client of the application with these settings, its model loaded."""

    @contextlib.asynccontextmanager
    async def open_client(*, load: Any = api.load, wait: bool = True, **given: Any) -> AsyncIterator[httpx.AsyncClient]:
        asgi, app, loading = build_app(Settings(**given), plugins, load, document=api.DOCUMENT)
        transport = httpx.ASGITransport(asgi)
        async with (
            loading.lifespan(None),
            httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client,
        ):
            if wait:
                await until_loaded(app)
            yield client

    return open_client
