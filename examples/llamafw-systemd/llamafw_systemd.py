"""Send the server's lifecycle events to systemd as ``sd_notify`` messages.

The protocol is https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html. Without the environment
variable ``NOTIFY_SOCKET``, which systemd sets, nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket

from llamafw import App, Model, hookimpl

requires_api = ">=1.0,<2"
log = logging.getLogger(__name__)


def notify(*lines: str) -> None:
    """Send a message to systemd if it has started the server."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address.startswith("@"):  # a socket in Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("cannot notify systemd: %s", error)


@hookimpl
def server_started(app: App) -> None:
    """Report that the model is loading, which ``systemctl status`` shows."""
    notify("STATUS=loading the model")


@hookimpl
def model_loaded(model: Model, app: App) -> None:
    """Report that the server is ready, so that dependent units start."""
    notify("READY=1", f"STATUS=serving {app.loaded.name}, {app.loaded.engine.n_slots} slots")


@hookimpl
def server_stopping(app: App) -> None:
    """Report that the server is stopping."""
    notify("STOPPING=1")
