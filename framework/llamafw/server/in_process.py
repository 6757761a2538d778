"""Run the server's application in this process, without a port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.types import ASGIApp

from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from llamafw.serving import LoadedModel
from llamafw.settings import Settings


@contextlib.asynccontextmanager
async def run_in_process(
    settings: Settings, plugins: Plugins, load: Callable[[], LoadedModel]
) -> AsyncIterator[ASGIApp]:
    """Build the application, load its model, and yield the application; at the end, stop the engine.

    Parameters
    ----------
    settings : Settings
        Settings of the server.
    plugins : Plugins
        The server's plugins.
    load : callable
        Returns the model; called on a thread of its own.

    Raises
    ------
    BaseException
        What ``load`` has raised.
    SpecError, PluginError
        The document, the plugins and their endpoints do not match.
    """
    finished = asyncio.Event()
    errors: list[BaseException] = []

    def load_or_keep_error() -> LoadedModel:
        try:
            return load()
        except BaseException as error:
            errors.append(error)
            raise

    asgi, _, loader = build_app(settings, plugins, load_or_keep_error, ready=finished.set, failed=finished.set)
    async with loader.lifespan(None):
        await finished.wait()
        if errors:
            raise errors[0]
        yield asgi
