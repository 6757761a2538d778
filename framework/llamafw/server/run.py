"""Run the server: bind its address, serve with uvicorn, and stop on signals."""

from __future__ import annotations

import contextlib
import errno
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

from llamafw.errors import SettingsError, StartupError
from llamafw.plugins import Plugins
from llamafw.server import header_limits
from llamafw.server.app import build_app
from llamafw.server.lifespan import ModelLoader
from llamafw.server.tls import certificate_files
from llamafw.serving import LoadedModel
from llamafw.settings import Settings
from llamafw.spec import Document

log = logging.getLogger("llamafw.server")

KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle. Most clients wait less: then they close it, and never write to a closed one."""

RESPONSE_END_SECONDS = 2.0
"""How long responses may take to end after the engine has stopped."""

BACKLOG = 2048
"""Maximum number of connections that wait to be accepted."""


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
        The host has no address, or the certificate cannot be used.
    StartupError
        The address cannot be bound.
    SpecError, PluginError
        The document, the plugins and their endpoints do not match.
    """
    exit_code = 0

    def report_ready() -> None:
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
    sockets = bind(settings.host, settings.port)
    address = url(sockets[0], "https" if cert else "http")
    asgi, _, loader = build_app(
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
    logging.getLogger("uvicorn").setLevel(logging.INFO if settings.log_level <= logging.DEBUG else logging.WARNING)

    print(f"llamafw: listening on {address} (loading the model; requests get 503 until it is ready)", flush=True)
    server.run(sockets)

    if not server.started:
        exit_code = 1
    if not loader.has_finished:  # its thread may compile for another minute, or have started threads that do not end
        logging.shutdown()
        sys.stdout.flush()
        os._exit(exit_code)
    return exit_code


def bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of ``host``; with port 0, on one free port."""
    infos = _addresses(host, port)
    sockets: list[socket.socket] = []
    reason = "the host has no address"
    for family, kind, protocol, _, address in dict.fromkeys(infos):
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if port == 0 and sockets:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_listen(family, kind, protocol, address))
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                reason += "; choose another port with --port"
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # these are for ::1 without IPv6
                break
    else:
        if sockets:
            return sockets

    for sock in sockets:
        sock.close()
    raise StartupError(f"cannot listen on {host}:{port}: {reason}")


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # type: ignore[return-value]  # enums are ints
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}") from None


def _listen(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)

    try:
        if os.name == "posix":  # on Windows, the option would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def url(sock: socket.socket, scheme: str = "http") -> str:
    """Return the address of a listening socket as a URL."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


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
