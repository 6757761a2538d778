"""Writes files completely or not at all: the files of saved slots, and those of the prompt cache on disk."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

_PIECE_BYTES = 2**24  # written at once
_ORPHAN_SECONDS = (
    600.0  # temporary files that were not written to for so long are deleted: their process was probably killed
)


def write_atomically(
    path: Path,
    parts: Iterable[bytes | memoryview],
    *,
    prefix: str,
    durable: bool = True,
    may_continue: Callable[[], bool] | None = None,
) -> None:
    """Write ``parts`` to a temporary file beside ``path``, then rename it.

    Only the user of this process may read the file.

    Parameters
    ----------
    path : Path
        The file; it is replaced if it exists.
    parts : iterable of bytes-like
        Its contents.
    prefix : str
        The start of the name of the temporary file.
    durable : bool
        Wait until the contents are on the disk, so that they are complete even after a power failure.
    may_continue : callable, optional
        Called before each 16 MiB. If it returns False, writing is abandoned.

    Raises
    ------
    OSError
        The file cannot be written; `TimeoutError` if ``may_continue`` has returned False. No file is left behind.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for part in parts:
                _write(file.fileno(), memoryview(part).cast("B"), may_continue)
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def is_orphan(name: str, modified: float, prefix: str) -> bool:
    """Return whether a temporary file was not written to for ten minutes: its process was probably killed.

    Parameters
    ----------
    name : str
        Name of the file.
    modified : float
        When it was written to, in seconds since 1970.
    prefix : str
        That of `write_atomically`.
    """
    return name.startswith(prefix) and time.time() - modified > _ORPHAN_SECONDS


def remove_orphans(folder: Path, prefix: str) -> None:
    """Remove temporary files that were not written to for ten minutes, as far as that is possible."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if is_orphan(entry.name, entry.stat().st_mtime, prefix):
                    os.unlink(entry.path)


def _write(descriptor: int, data: memoryview, may_continue: Callable[[], bool] | None) -> None:
    while len(data):
        if may_continue is not None and not may_continue():
            raise TimeoutError("there was not enough time")
        data = data[os.write(descriptor, data[:_PIECE_BYTES]) :]
