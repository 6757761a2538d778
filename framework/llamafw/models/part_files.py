"""Temporary files with names such as ``.NAME.PID.part``, which become NAME when they are complete.

A process that is killed leaves its file behind; the next one that writes NAME removes it. Independent of the contents.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from llamafw.errors import ModelError
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
    part = _beside(path, "part")
    with raised_signals():
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def part_files(paths: Sequence[Path], n_bytes: int = 0) -> Iterator[list[Path]]:
    """Yield the paths of temporary files beside files that belong together, and rename all of them at the end.

    If the block raises, also because of a signal that ends the process, the temporary files are removed, and earlier
    files stay. At the end, a file is removed if the block has not written its temporary file.

    Parameters
    ----------
    paths : sequence of Path
        The files, which are in one folder; it is created. Nobody uses the others without the first one: an earlier
        one is renamed before they are replaced, and the new one comes last. A process that is killed meanwhile leaves
        no mixture that looks complete.
    n_bytes : int
        The size of all temporary files together.

    Yields
    ------
    list of Path
        The temporary files, in the same order.

    Raises
    ------
    ModelError
        The disk has no space for them.
    OSError
        The folder cannot be created, or a file cannot be renamed. All files are as before.
    """
    folder, parts = paths[0].parent, [_beside(path, "part") for path in paths]
    is_new = not folder.exists()
    with raised_signals():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                _remove_abandoned(path)
            check_space(paths[0], n_bytes)
            yield parts
            _replace_all(paths, parts)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # it is not empty, because nothing has failed
                    folder.rmdir()


def check_space(path: Path, n_bytes: int) -> None:
    """Raise ModelError if the disk of ``path.parent`` has no space for ``n_bytes``."""
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes:
        needed = f"{n_bytes / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on the disk"
        raise ModelError(f"{path} needs {needed}")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{suffix}")


def _replace_all(paths: Sequence[Path], parts: Sequence[Path]) -> None:
    """Give temporary files their names, the first one last; if that fails, all files are as before."""
    earlier = [_beside(path, "old") for path in paths]
    found, written = [path for path in paths if path.exists()], [part.exists() for part in parts]
    try:
        for path, old in zip(paths, earlier, strict=True):
            if path in found:
                path.replace(old)
        for path, part, is_written in reversed([*zip(paths, parts, written, strict=True)]):
            if is_written:
                part.replace(path)
    except BaseException:
        for path, part, old, is_written in reversed([*zip(paths, parts, earlier, written, strict=True)]):
            if old.exists():
                old.replace(path)
            elif path not in found and is_written and not part.exists():
                path.unlink()
        raise
    for old in earlier:
        with suppress(OSError):
            old.unlink()


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files for ``path`` of processes that do not exist any more."""
    import psutil  # plugins import this module's names at start-up, when this is not needed

    name = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.part")
    with suppress(OSError):
        for one in list(path.parent.iterdir()):
            match = name.fullmatch(one.name)
            if match and not psutil.pid_exists(int(match[1])):
                with suppress(OSError):
                    one.unlink()
