"""Load the model while the socket already answers, tell plugins, and stop in order. It knows nothing of requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from llamafw import spec
from llamafw.errors import LlamafwError, Unavailable
from llamafw.server.routing import operation_of
from llamafw.server.running_app import RunningApp
from llamafw.serving import LoadedModel

log = logging.getLogger("llamafw.server")


class Loading:
    """The model's way into the server and out of it.

    Parameters
    ----------
    load : callable
        Returns the model, in its own time, on a thread of its own.
    failed : callable
        Called on the event loop when it could not; the reason has been logged.
    """

    def __init__(self, app: RunningApp, load: Callable[[], LoadedModel], failed: Callable[[], None]) -> None:
        self.app, self.load, self.failed = app, load, failed
        self.thread = threading.Thread(target=self._run, name="llamafw-load", daemon=True)
        self.settled = False  # the model has arrived, or never will; False to the end if it came too late
        self._stopping: asyncio.Task[None] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the model could not be loaded."""
        return self.settled and self.app.model is None

    @contextlib.asynccontextmanager
    async def lifespan(self, asgi: Any) -> AsyncIterator[None]:
        """Start loading; at the end, stop."""
        self._loop = asyncio.get_running_loop()
        if (n := self.app.settings.threads_http) > 0:  # else asyncio's own number
            self._loop.set_default_executor(ThreadPoolExecutor(n, "llamafw-http"))
        self.thread.start()
        self.app.plugins.tell("server_started", app=self.app)
        try:
            yield
        finally:
            await self.stop()
            self.app.plugins.tell("server_stopping", app=self.app)

    def stop(self) -> asyncio.Task[None]:
        """Stop the engine: running requests get the time that the settings allow. May be called again."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        model = self.app.model
        if model is not None:
            await model.engine.stop(self.app.settings.timeout_graceful_shutdown)
            self.app.plugins.tell("model_unloaded", model=model.model, app=self.app)

    def _run(self) -> None:
        try:
            model: LoadedModel | None = self.load()
            error: BaseException | None = None
        except BaseException as exc:  # whatever it is, nobody else would hear of it
            model, error = None, exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped meanwhile
            self._loop.call_soon_threadsafe(self._finish, model, error)

    def _finish(self, model: LoadedModel | None, error: BaseException | None) -> None:
        if self._stopping is not None:
            return
        self.settled = True
        if model is None:
            known = isinstance(error, LlamafwError)
            name = None if known or error is None else self.app.plugins.blamed(error, "startup")
            whose = f", plugin {name} failed" if name else ""
            message = f"cannot load the model{whose}: {error if known else repr(error)}"
            log.error("%s", message, exc_info=None if known else error)
            if self.app.settings.log_disable:  # somebody must say why nothing runs
                print(f"llamafw: {message}", file=sys.stderr, flush=True)
            self.failed()
            return
        self.app.model = model
        self.app.plugins.tell("model_loaded", model=model.model, app=self.app)
        log.info("ready")


class LoadingGate:
    """While the model is loading, answers 503 for every path but the operations that do not need it (P-01, P-02).

    It stands before security: a client learns that it must wait, key or no key.
    """

    def __init__(self, asgi: ASGIApp, *, app: RunningApp) -> None:
        self.asgi, self.app = asgi, app
        self._always = {
            operation["operationId"]
            for _, _, operation in spec.operations(app.document)
            if operation.get(spec.WHILE_LOADING)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or raise Unavailable."""
        if scope["type"] == "http" and self.app.model is None and operation_of(scope) not in self._always:
            raise Unavailable("Loading model")
        await self.asgi(scope, receive, send)
