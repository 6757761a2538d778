"""A lock between processes, held on a file.

The operating system releases it when its holder ends or crashes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _wait_for_lock(fd: int) -> None:
        while True:
            try:
                return msvcrt.locking(fd, msvcrt.LK_LOCK, 1)
            except OSError:  # LK_LOCK gives up after ten seconds
                continue

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _wait_for_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold the lock on a file and yield the file descriptor.

    On POSIX, a child process that inherits the descriptor holds the lock too.

    Parameters
    ----------
    path : Path
        The file. It is created if it does not exist, and never removed.
    on_wait : callable
        Called once if another process holds the lock, before waiting for it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _try_lock(fd)
        except OSError:
            on_wait()
            _wait_for_lock(fd)
        yield fd
    finally:
        os.close(fd)
