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


# --- a full disk


@pytest.fixture
def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(folder, monkeypatch)


class Disk:
    """A disk with space for so many bytes in a folder: `os.write` fails beyond them, as on a real one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self.n_bytes, self.error, self._write = folder, 2**30, errno.ENOSPC, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: memoryview) -> int:
        n_free = self.n_bytes - sum(path.stat().st_size for path in self._folder.iterdir())
        if n_free <= 0:
            raise OSError(self.error, os.strerror(self.error))
        return self._write(descriptor, data[:n_free])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_oldest_states_make_space_on_a_full_disk(
    folder: Path, cache: DiskCache, disk: Disk, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    disk.n_bytes, disk.error = 3 * FILE, error
    for seed in (1, 2, 3):
        write(cache, entry(seed))
        set_ages(folder)
    assert held(cache, 1) == [1]  # used: now 2 is the oldest
    assert write(cache, entry(4), entry(5)) == [True, True]
    assert held(cache, 1, 2, 3, 4, 5) == [1, 4, 5]
    assert len(list(folder.iterdir())) == 3  # no temporary file
    assert warnings(caplog) == [
        f"prompt cache: the disk of {folder} is full: new states replace the least recently used"
    ]
    assert (cache.stats().n_writes, cache.stats().n_failures) == (5, 0)


def test_states_stay_if_all_of_them_leave_too_little_space(
    folder: Path, cache: DiskCache, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    write(cache, entry(1), entry(2))
    disk.n_bytes = 2 * FILE
    assert write(cache, entry(3, 4 * SIZE), entry(4, 4 * SIZE)) == [False, False]
    assert held(cache, 1, 2) == [1, 2]
    assert len(list(folder.iterdir())) == 2
    assert warnings(caplog) == [f"prompt cache: states cannot be written to {folder}: {os.strerror(errno.ENOSPC)}"]


def test_disk_that_others_fill_is_tried_once_more_and_logged_once(
    folder: Path, cache: DiskCache, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in (1, 2, 3, 4):
        write(cache, entry(seed))
        set_ages(folder)
    disk.n_bytes = 0
    assert write(cache, entry(5), entry(6), entry(7)) == [False, False, False]
    assert held(cache, 1, 2, 3, 4) == [4]  # each try has removed one
    assert len(warnings(caplog)) == 2
    disk.n_bytes = 2**30
    assert write(cache, entry(5)) == [True]
    assert held(cache, 4, 5) == [4, 5]


def test_states_of_other_models_make_space_too(folder: Path, cache: DiskCache, disk: Disk) -> None:
    other = DiskCache(folder, 2**30, b"\x08" * 32, 4096)
    write(other, entry(1))
    other.close()
    (folder / "notes.txt").write_bytes(bytes(SIZE))
    disk.n_bytes = 2 * FILE
    assert write(cache, entry(2)) == [True]
    assert sorted(path.suffix for path in folder.iterdir()) == [".prompt", ".txt"]
    assert held(cache, 2) == [2]
