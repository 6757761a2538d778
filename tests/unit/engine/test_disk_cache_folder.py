"""The folder of the prompt cache when it is removed, or when its disk is full, while a server uses it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.prompt_cache import Entry
from llamafw.types import Ints

MODEL = b"\x07" * 32
SIZE = 20_000  # bytes of a state
FILE = SIZE + 500  # bytes of its file, or fewer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def cache(folder: Path) -> Iterator[DiskCache]:
    made = DiskCache(folder, 2**30, MODEL, 4096)
    yield made
    made.close()


def tokens(seed: int) -> Ints:
    return np.random.default_rng(seed).integers(0, 50_000, 80).astype(np.int32)


def entry(seed: int, size: int = SIZE) -> Entry:
    return Entry(tokens(seed), np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8))


def write(cache: DiskCache, *added: Entry) -> list[bool]:
    """Write states; return which of them were written."""
    return [cache.write(one, lambda: True) for one in added]


def held(cache: DiskCache, *seeds: int) -> list[int]:
    """Return which states can be read."""
    found = []
    for seed in seeds:
        state, _ = cache.best(tokens(seed))
        result: Future[Entry | None] = Future()
        if state is not None:
            cache.read(state, result.set_result)
            if (one := result.result(60)) is not None and one.state.tobytes() == entry(seed).state.tobytes():
                found.append(seed)
    return found


def set_ages(folder: Path) -> None:
    """Let all files look older than any that is used from now on, in the same order."""
    for path in folder.iterdir():
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**12))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- a folder that is removed


def test_removed_folder_is_created_again(
    folder: Path, cache: DiskCache, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    write(cache, entry(1), entry(2))
    shutil.rmtree(tmp_path / "cache")
    assert held(cache, 1, 2) == []
    assert write(cache, entry(1), entry(3)) == [True, True]  # also a state that was there before
    assert held(cache, 1, 2, 3) == [1, 3]
    assert os.name == "nt" or folder.stat().st_mode & 0o077 == 0
    assert warnings(caplog) == [f"prompt cache: {folder} had been removed; it was created again"]
    assert (cache.stats().n_states, cache.stats().n_failures) == (2, 0)


def test_folder_that_cannot_be_created_again_is_logged_once(
    folder: Path, cache: DiskCache, caplog: pytest.LogCaptureFixture
) -> None:
    write(cache, entry(1))
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    assert held(cache, 1) == []
    assert write(cache, entry(1), entry(2), entry(3)) == [False, False, False]
    assert warnings(caplog) == [f"prompt cache: states cannot be written to {folder}: File exists"]

    folder.unlink()
    assert write(cache, entry(1)) == [True]
    assert held(cache, 1) == [1]


def test_folder_that_was_not_writable_is_written_to_when_it_is_new(
    folder: Path, cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        assert write(cache, entry(1)) == [False]
        assert not cache.accepts(SIZE)
        assert held(cache, 1) == []
        assert not cache.accepts(SIZE)
    folder.mkdir()
    assert held(cache, 1) == []  # looks at the folder
    assert write(cache, entry(1)) == [True]
