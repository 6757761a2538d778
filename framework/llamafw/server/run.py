"""Run the server: bind, serve with uvicorn, stop on signals. It knows nothing of what is served."""

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

from llamafw.errors import SettingsError
from llamafw.plugins import Plugins
from llamafw.server import header_limits
from llamafw.server.app import build_app
from llamafw.server.lifespan import Loading
from llamafw.server.tls import certificate
from llamafw.serving import LoadedModel
from llamafw.settings import Settings
from llamafw.spec import Document

log = logging.getLogger("llamafw.server")

KEEP_ALIVE = 75  # seconds a connection may idle: longer than clients keep theirs, so that they close first
LAST_WORDS = 2.0  # seconds for responses to end after the engine has stopped
BACKLOG = 2048


def serve(
    settings: Settings, plugins: Plugins, load: Callable[[], LoadedModel], *, document: Document | None = None
) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code.

    The address is printed as soon as it answers, which is before the model is loaded: ``load`` runs meanwhile.

    Parameters
    ----------
    document : dict, optional
        The API document before plugins extend it, instead of the installed one.

    Raises
    ------
    SettingsError
        The address cannot be bound, or there is no certificate for it.
    SpecError, PluginError
        The document, the plugins and their endpoints do not fit together.
    """
    exit_code = 0

    def failed() -> None:
        nonlocal exit_code
        exit_code = 1
        server.should_exit = True

    def load_for_good() -> LoadedModel:
        model = load()
        gc.freeze()  # what is loaded stays; to look through it takes 0.2 s, in which no request would move
        return model

    cert, key = certificate(settings)
    sockets = bind(settings.host, settings.port)
    asgi, _, loading = build_app(settings, plugins, load_for_good, failed=failed, document=document)
    config = uvicorn.Config(
        asgi,
        log_config=None,
        access_log=False,  # `access` writes it
        server_header=False,  # `edge` names the server
        http=header_limits.protocol(settings.timeout),
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE,
        backlog=BACKLOG,
        ssl_certfile=cert,
        ssl_keyfile=key,
    )
    server = Server(config, loading, settings.timeout_graceful_shutdown)
    logging.getLogger("uvicorn").setLevel(logging.INFO if settings.log_level <= logging.DEBUG else logging.WARNING)
    print(f"llamafw: listening on {url(sockets[0], 'https' if cert else 'http')}", flush=True)
    server.run(sockets)
    if not server.started:
        exit_code = 1
    if not loading.settled:  # it may be compiling for a minute, or have started threads that nobody will stop
        logging.shutdown()
        sys.stdout.flush()
        os._exit(exit_code)
    return exit_code


def bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for every address of ``host``; with port 0, a free port that they share."""
    place = f"{host}:{port}"
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"cannot listen on {place}: {error}") from None
    sockets: list[socket.socket] = []
    reason = "it has no address"
    for family, kind, protocol, _, address in dict.fromkeys(infos):
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if port == 0 and sockets:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_listen(family, kind, protocol, address))
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # ::1 where there is no IPv6
                break
    else:
        if sockets:
            return sockets
    for sock in sockets:
        sock.close()
    raise SettingsError(f"cannot listen on {place}: {reason}")


def _listen(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows the option would let two servers share a port
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


class Server(uvicorn.Server):
    """Uvicorn's server with our way to stop: the first signal drains and exits with 0, the second exits at once."""

    def __init__(self, config: uvicorn.Config, loading: Loading, grace: float) -> None:
        super().__init__(config)
        self._loading, self._grace = loading, grace

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, and do not raise them again afterwards: stopping when asked to is no failure."""
        if threading.current_thread() is not threading.main_thread():  # only the main one may
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at once if we are stopping already."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, give running requests their time, and end."""
        if not self._loading.has_failed:  # which has been told, and nothing runs
            log.info("stopping: running requests have %g s to finish", self._grace)
        self.config.timeout_graceful_shutdown = self._grace + LAST_WORDS  # type: ignore[assignment]  # seconds; a float will do
        self._loading.stop()
        await super().shutdown(sockets)
