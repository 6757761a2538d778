"""Record which servers of this user run on this machine, for ``llamafw ps`` and ``llamafw stop``.

Each server has a file in the user's state folder while it runs. A server that was killed leaves its file behind: the
start time of its process shows whether the file is still true, also if another process has got its number.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

log = logging.getLogger("llamafw.server")

FOLDER = "servers"
_TOLERANCE = 2.0
"""Seconds by which two readings of the start time of a process may differ, because the clock was corrected."""


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A server."""

    pid: int
    started: float  # start time of the process, in seconds since 1970
    host: str  # name of the machine; the folder may be on a network
    urls: tuple[str, ...]  # addresses that the server listens on
    grace: float  # seconds that running requests have to finish when the server stops
    model: str | None = None  # id of the model; None: it is loading

    @property
    def path(self) -> Path:
        """The file of this record."""
        return records_folder() / f"{self.host}-{self.pid}.json"

    def process(self) -> psutil.Process | None:
        """Return the process of the server; None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started) <= _TOLERANCE
            return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def seconds(self) -> float:
        """Return for how long the process has run, in seconds."""
        return max(0.0, time.time() - self.started)

    def write(self) -> None:
        """Write the file; without effect, except for a log message, if that is not possible."""
        from llamafw.engine.atomic_files import write_atomically

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, [json.dumps(asdict(self)).encode()], prefix=".new-", durable=False)
        except OSError as error:
            log.debug("`llamafw ps` will not list this server: %s", error)

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def records_folder() -> Path:
    """Return the folder of the files; it may not exist."""
    from platformdirs import user_state_path

    return user_state_path("llamafw", appauthor=False) / FOLDER


@contextlib.contextmanager
def recorded_server(urls: tuple[str, ...], grace: float) -> Iterator[Callable[[str], None]]:
    """Record the server of this process while the context is open.

    Parameters
    ----------
    urls : tuple of str
        The addresses that it listens on.
    grace : float
        Seconds that running requests have to finish when it stops.

    Yields
    ------
    callable
        ``set_model(name)`` records that the model is loaded.
    """
    pid = os.getpid()
    record = ServerRecord(pid, psutil.Process(pid).create_time(), platform.node(), urls, grace)
    record.write()
    try:
        yield lambda name: replace(record, model=name).write()
    finally:
        record.remove()


def running_servers() -> list[ServerRecord]:
    """Return the servers of this user on this machine, oldest first; remove files of servers that have ended."""
    servers = []
    for path in records_folder().glob(f"{platform.node()}-*.json"):
        record = _read(path)
        if record is None:
            continue
        if record.process() is not None:
            servers.append(record)
        else:
            record.remove()
    return sorted(servers, key=lambda record: record.started)


def _read(path: Path) -> ServerRecord | None:
    """Return the record in a file; None if it has just been removed, or is not a record."""
    try:
        values = json.loads(path.read_bytes())
        return ServerRecord(**{**values, "urls": tuple(values["urls"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
