"""Run the server: bind its addresses, serve with uvicorn, and stop on signals."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from llamafw.plugins import Plugins
from llamafw.server import header_limits
from llamafw.server.app import build_app
from llamafw.server.lifespan import ModelLoader
from llamafw.server.records import recorded_server
from llamafw.server.sockets import BACKLOG, bind
from llamafw.server.tls import certificate_files
from llamafw.serving import LoadedModel
from llamafw.settings import Settings
from llamafw.spec import Document

log = logging.getLogger("llamafw.server")

KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle. Most clients wait less: then they close it, and never write to a closed one."""

RESPONSE_END_SECONDS = 2.0
"""How long responses may take to end after the engine has stopped."""


def serve(
    settings: Settings, plugins: Plugins, load: Callable[[], LoadedModel], *, document: Document | None = None
) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit code.

    The address is printed as soon as it answers, with 503, and logged again when the model is loaded.

    Parameters
    ----------
    settings : Settings
        All settings.
    plugins : Plugins
        All plugins.
    load : callable
        Returns the model; called on a thread of its own.
    document : dict, optional
        The API document before plugins extend it. By default, the installed ``openapi.yaml``.

    Raises
    ------
    SettingsError
        A host has no address, or the certificate cannot be used.
    StartupError
        An address cannot be bound.
    SpecError, PluginError
        The document, the plugins and their endpoints do not match.
    """
    exit_code = 0

    def report_ready() -> None:
        set_model(app.loaded.name)
        log.info("ready on %s", address)

    def stop_failed() -> None:
        nonlocal exit_code
        exit_code = loader.exit_code
        server.should_exit = True

    def load_and_freeze() -> LoadedModel:
        model = load()
        gc.freeze()  # else each garbage collection visits the model's objects, which blocks all requests for 0.2 s
        return model

    cert, key = certificate_files(settings)
    listeners = bind(settings.host, settings.port, reuse_port=settings.reuse_port)
    urls = [listener.url("https" if cert else "http") for listener in listeners]
    address = ", ".join(urls)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        asgi, app, loader = build_app(
            settings, plugins, load_and_freeze, ready=report_ready, failed=stop_failed, document=document
        )
        config = uvicorn.Config(
            asgi,
            log_config=None,
            access_log=False,  # AccessLogMiddleware writes it
            server_header=False,  # CommonHeadersMiddleware adds it
            http=header_limits.http_protocol(settings.timeout),
            ws="none",
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            backlog=BACKLOG,
            ssl_certfile=cert,
            ssl_keyfile=key,
        )
        server = HttpServer(config, loader, settings.timeout_graceful_shutdown)
        uvicorn_level = (
            logging.INFO if settings.log_level <= logging.DEBUG else max(logging.WARNING, settings.log_level)
        )
        logging.getLogger("uvicorn").setLevel(uvicorn_level)

        bases = tuple(url + settings.api_prefix if url.startswith("http") else url for url in urls)
        set_model = stack.enter_context(recorded_server(bases, settings.timeout_graceful_shutdown))
        print(f"llamafw: listening on {address} (loading the model; requests get 503 until it is ready)", flush=True)
        server.run([sock for listener in listeners for sock in listener.sockets])

    if not server.started:
        exit_code = 1
    if not loader.has_finished:  # its thread may compile for another minute, or have started threads that do not end
        logging.shutdown()
        sys.stdout.flush()
        os._exit(exit_code)
    return exit_code


class HttpServer(uvicorn.Server):
    """Uvicorn's server with graceful shutdown: the first signal lets requests finish, the second exits at once."""

    def __init__(self, config: uvicorn.Config, loader: ModelLoader, grace: float) -> None:
        super().__init__(config)
        self._loader, self._grace = loader, grace

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals.

        Unlike uvicorn, do not raise them again afterwards, because the exit code must be 0.
        """
        if threading.current_thread() is not threading.main_thread():  # other threads cannot handle signals
            yield
            return

        handlers = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; exit at once if the server is already stopping."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, give running requests time to finish, and stop."""
        if not self._loader.has_failed:  # otherwise the reason has been logged and no request is running
            log.info("stopping: running requests have %g s to finish", self._grace)
        self.config.timeout_graceful_shutdown = self._grace + RESPONSE_END_SECONDS  # type: ignore[assignment]  # a float of seconds works, too
        self._loader.stop()
        await super().shutdown(sockets)
