"""Temporary files with names such as ``.NAME.PID.part``, which become NAME when they are complete.

A process that is killed leaves its file behind; the next one that writes NAME removes it. Independent of the contents.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from llamafw.models.end_signals import raised_signals


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside ``path``, and rename it at the end.

    If the block raises, the file is removed, also because of a signal; see `raised_signals`. Files for the same
    ``path`` whose processes have ended are removed first.

    Raises
    ------
    OSError
        The file cannot be renamed.
    """
    _remove_abandoned(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with raised_signals():
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files for ``path`` of processes that do not exist any more."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.part")
    with suppress(OSError):
        for one in list(path.parent.iterdir()):
            match = name.fullmatch(one.name)
            if match and not psutil.pid_exists(int(match[1])):
                with suppress(OSError):
                    one.unlink()
