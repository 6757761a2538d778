"""Tells systemd how the server is: lifecycle events, as ``sd_notify`` messages.

Protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html. Without ``NOTIFY_SOCKET`` in the
environment nothing happens.
"""

from __future__ import annotations

import logging
import os
import socket

from llamafw import App, Model, hookimpl

requires_api = ">=1.0,<2"
log = logging.getLogger(__name__)


def notify(*lines: str) -> None:
    """Send a message to who started us, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address.startswith("@"):  # a name in Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("systemd cannot be told: %s", error)


@hookimpl
def server_started(app: App) -> None:
    """The socket answers; ``systemctl status`` shows why it is not ready yet."""
    notify("STATUS=loading the model")


@hookimpl
def model_loaded(model: Model, app: App) -> None:
    """The model answers: units that depend on this one may start."""
    notify("READY=1", f"STATUS=serving {app.loaded.name}, {app.loaded.engine.n_slots} slots")


@hookimpl
def server_stopping(app: App) -> None:
    """No more requests are accepted."""
    notify("STOPPING=1")
