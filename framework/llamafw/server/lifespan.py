"""Load the model while the server already answers, and stop the engine before the server."""

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
from llamafw.server.routing import operation_id_of
from llamafw.server.running_app import RunningApp
from llamafw.serving import LoadedModel

log = logging.getLogger("llamafw.server")


class ModelLoader:
    """Loads the model on a thread of its own, and stops its engine.

    Parameters
    ----------
    app : RunningApp
        Gets the model.
    load : callable
        Returns the model.
    ready : callable
        Called on the event loop when the model is loaded.
    failed : callable
        Called on the event loop when the model could not be loaded, after the reason has been logged.
    """

    def __init__(
        self,
        app: RunningApp,
        load: Callable[[], LoadedModel],
        *,
        ready: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self.app, self.load, self.ready, self.failed = app, load, ready, failed
        self.thread = threading.Thread(target=self._run, name="llamafw-load", daemon=True)
        self.has_finished = False  # loading has succeeded or failed; remains False if the server stops first
        self.exit_code = 0  # of the process, if loading fails: 2 if a setting is wrong, otherwise 1
        self._stopping: asyncio.Task[None] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the model could not be loaded."""
        return self.has_finished and self.app.model is None

    @contextlib.asynccontextmanager
    async def lifespan(self, asgi: Any) -> AsyncIterator[None]:
        """Start to load the model; at the end, stop its engine."""
        self._loop = asyncio.get_running_loop()
        if (n := self.app.settings.threads_http) > 0:  # otherwise asyncio decides
            self._loop.set_default_executor(ThreadPoolExecutor(n, "llamafw-http"))
        self.thread.start()
        self.app.plugins.notify("server_started", app=self.app)
        try:
            yield
        finally:
            await self.stop()
            self.app.plugins.notify("server_stopping", app=self.app)

    def stop(self) -> asyncio.Task[None]:
        """Stop the engine; running requests get the time that the settings allow.

        May be called again.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        model = self.app.model
        if model is not None:
            grace = self.app.settings.timeout_graceful_shutdown
            await asyncio.gather(*(loaded.engine.stop(grace) for loaded in model.all))
            for loaded in model.all:
                self.app.plugins.notify("model_unloaded", model=loaded.model, app=self.app)

    def _run(self) -> None:
        try:
            model: LoadedModel | None = self.load()
            error: BaseException | None = None
        except BaseException as exc:  # including SystemExit: an exception that ends this thread would be lost
            model, error = None, exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped meanwhile
            self._loop.call_soon_threadsafe(self._finish, model, error)

    def _finish(self, model: LoadedModel | None, error: BaseException | None) -> None:
        if self._stopping is not None:
            return

        self.has_finished = True
        if model is None:
            self._report(error)
            self.exit_code = error.exit_code if isinstance(error, LlamafwError) else 1
            self.failed()
            return
        self.app.model = model
        self.app.recommend_defaults(model.sampling)
        for loaded in model.all:
            self.app.plugins.notify("model_loaded", model=loaded.model, app=self.app)
        self.ready()

    def _report(self, error: BaseException | None) -> None:
        """Log why the model could not be loaded: one line for a known error, a traceback for others."""
        is_known = isinstance(error, LlamafwError)
        plugin = None if is_known or error is None else self.app.plugins.report_failure(error, "startup")
        source = f", plugin {plugin} failed" if plugin else ""
        message = f"cannot load the model{source}: {error if is_known else repr(error)}"
        log.error("%s", message, exc_info=None if is_known else error)
        if self.app.settings.log_disable or not log.isEnabledFor(logging.ERROR):  # the reason must be visible, too
            print(f"llamafw: {message}", file=sys.stderr, flush=True)


class LoadingMiddleware:
    """Answers 503 while the model is loading, except for operations that do not need it.

    It comes before authentication, so clients learn that they must wait even if they have no key.
    """

    def __init__(self, asgi: ASGIApp, *, app: RunningApp) -> None:
        self.asgi, self.app = asgi, app
        self._available = {
            operation["operationId"]
            for _, _, operation in spec.operations(app.document)
            if operation.get(spec.WHILE_LOADING)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise Unavailable."""
        if scope["type"] == "http" and self.app.model is None and operation_id_of(scope) not in self._available:
            raise Unavailable("Loading model")
        await self.asgi(scope, receive, send)
