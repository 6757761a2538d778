"""A server with the chat page and a scripted engine, on a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from llamafw import Settings
from llamafw.server.sockets import bind
from llamafw.testing.plugin import load_plugins, serve_in_process, small_settings
from support.scripted_engine import Script, script

TIMEOUT = 300  # seconds until the server has started or ended


class PageServer:
    """A running server: its URL, and the script of its answers."""

    def __init__(self, model: Path, settings: Settings) -> None:
        self.url = ""
        self.script: Script = script
        self._model, self._settings = model, settings
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._thread.start()
        assert self._started.wait(TIMEOUT)
        if self._error:
            raise self._error

    def stop(self) -> None:
        """End all answers and the server."""
        self.script.reset()
        if self._server:
            self._server.should_exit = True
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self.script.loop = asyncio.get_running_loop()
        async with serve_in_process(self._model, self._settings, load_plugins(self._settings)) as asgi:
            config = uvicorn.Config(asgi, lifespan="off", ws="none", log_level="error", timeout_graceful_shutdown=1)
            self._server = _Server(config)
            (listener,) = bind("127.0.0.1", 0)
            self.url = listener.url()
            self._started.set()
            await self._server.serve([*listener.sockets])


class _Server(uvicorn.Server):
    """Leaves the signals to the test's process; other threads than the main one cannot handle them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def page_server(model: Path, **settings: Any) -> Iterator[PageServer]:
    """Yield a server whose engine answers what its ``script`` says."""
    plugins = ("support.scripted_engine", *settings.pop("plugin", ()))
    server = PageServer(model, small_settings(**settings, plugin=plugins))
    server.start()
    try:
        yield server
    finally:
        server.stop()
