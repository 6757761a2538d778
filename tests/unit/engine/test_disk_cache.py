"""The folder of the prompt cache: what is found in it, and what becomes of files that cannot be used."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import SettingsError
from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.prompt_cache import Entry, PromptCache
from llamafw.types import Bytes, Ints, Strengths

MODEL, OTHER_MODEL = b"\x01" * 32, b"\x02" * 32
N_CTX = 4096
SIZE = 10_000  # bytes of a state


class Folder:
    """A folder, and the caches that use it; they are closed after the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[DiskCache] = []

    def cache(self, limit: int = 2**30, fingerprint: bytes = MODEL, n_ctx: int = N_CTX) -> DiskCache:
        self._open.append(DiskCache(self.path, limit, fingerprint, n_ctx))
        return self._open[-1]

    def close(self) -> None:
        for cache in self._open:
            cache.close()

    def files(self) -> list[Path]:
        return sorted(self.path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "states")
    yield made
    made.close()


def tokens(seed: int, n: int = 100) -> Ints:
    return np.random.default_rng(seed).integers(0, 1000, n).astype(np.int32)


def entry(seed: int, n: int = 100, size: int = SIZE, cuts: tuple[int, ...] | None = None) -> Entry:
    state: Bytes = np.random.default_rng(1000 + seed).integers(0, 256, size).astype(np.uint8)
    return Entry(tokens(seed, n), state, cuts)


def write(cache: DiskCache, added: Entry) -> bool:
    return cache.write(added, lambda: True)


def read(cache: DiskCache, prompt: Ints, adapters: Strengths = ()) -> Entry | None:
    """Return what the cache has for a prompt, read from its file."""
    state, _ = cache.best(prompt, adapters)
    if state is None:
        return None
    result: Future[Entry | None] = Future()
    cache.read(state, result.set_result)
    return result.result(60)


def age(path: Path, seconds: float) -> None:
    """Let a file look as if it was used ``seconds`` ago."""
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


# --- finding


@pytest.mark.parametrize("cuts", [None, (), (10, 50)])
def test_state_is_found_after_a_restart(folder: Folder, cuts: tuple[int, ...] | None) -> None:
    added = entry(1, cuts=cuts)
    assert write(folder.cache(), added)
    found = read(folder.cache(), np.concatenate([added.tokens, tokens(2)]))
    assert found is not None
    assert found.tokens.tolist() == added.tokens.tolist()
    assert found.state.tobytes() == added.state.tobytes()
    assert found.cuts == cuts


def test_longest_reusable_prefix_is_found(folder: Folder) -> None:
    cache = folder.cache()
    anywhere, at_50 = entry(1), entry(2, cuts=(50,))
    write(cache, anywhere)
    write(cache, at_50)
    for added, n_common, n_reused in ((anywhere, 60, 60), (at_50, 60, 50), (at_50, 100, 100), (at_50, 49, 0)):
        prompt = np.concatenate([added.tokens[:n_common], np.array([5000], np.int32)])
        assert cache.best(prompt)[1] == n_reused
    assert cache.holds(at_50.tokens[:50])
    assert not cache.holds(at_50.tokens[:60])


def test_state_can_be_read_before_it_is_written(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    cache, added = folder.cache(), entry(1)
    future = cache.add(added, lambda: go.wait(60))
    found: list[Entry | None] = []
    state, _ = cache.best(added.tokens)
    assert state is not None
    cache.read(state, found.append)
    assert found == [added]
    go.set()
    assert future is not None
    future.result(60)
    again = read(cache, added.tokens)
    assert again is not added
    assert again is not None
    assert again.state.tobytes() == added.state.tobytes()


def test_state_that_is_held_is_not_written_again(folder: Folder) -> None:
    cache = folder.cache()
    assert write(cache, entry(1))
    assert not write(cache, entry(1))
    assert not write(cache, entry(1, n=50))  # the start of the first one
    assert cache.stats().n_writes == len(folder.files()) == 1


def test_longer_state_replaces_the_start_of_it(folder: Folder) -> None:
    cache = folder.cache()
    for added in (entry(1, 50), entry(2, 50), entry(1, 90)):
        assert write(cache, added)
    assert cache.stats().n_states == len(folder.files()) == 2


def test_servers_see_each_others_states(folder: Folder) -> None:
    one, two = folder.cache(), folder.cache()
    write(one, entry(1))
    assert read(two, tokens(1)) is not None
    write(two, entry(2))
    assert read(one, tokens(2)) is not None
    folder.files()[0].unlink()
    assert [one.best(tokens(seed))[1] for seed in (1, 2)].count(100) == 1


def test_state_that_another_server_deleted_is_not_an_error(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    cache = folder.cache()
    write(cache, entry(1))
    state, _ = cache.best(tokens(1))
    assert state is not None
    (file,) = folder.files()
    file.unlink()
    result: Future[Entry | None] = Future()
    cache.read(state, result.set_result)
    assert result.result(60) is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_states_longer_than_the_context_are_left_alone(folder: Folder) -> None:
    write(folder.cache(), entry(1))
    cache = folder.cache(n_ctx=99)
    assert (cache.best(tokens(1)), cache.stats().n_states) == ((None, 0), 0)
    assert len(folder.files()) == 1


def test_only_the_user_can_read_the_folder_and_its_files(folder: Folder) -> None:
    write(folder.cache(), entry(1))
    assert os.name == "nt" or {path.stat().st_mode & 0o077 for path in (folder.path, *folder.files())} == {0}


# --- files that cannot be used


def damaged(data: bytes) -> dict[str, bytes]:
    """Return variants of a file that cannot be used, by the reason that is logged."""
    flipped_state, flipped_tokens = bytearray(data), bytearray(data)
    flipped_state[-1] ^= 1
    flipped_tokens[100] ^= 1
    return {
        "it is damaged": bytes(flipped_tokens),
        "it is incomplete": data[:-1],
        "it is incomplete ": data + b"x",
        "it is not a file of the prompt cache": b"",
        "it is not a file of the prompt cache ": b"hello" * 1000,
        "its format version is 9": data[:8] + b"\x09" + data[9:],
        "it is of another model": data[:12] + OTHER_MODEL + data[44:],
        "it is damaged ": bytes(flipped_state),
    }


@pytest.mark.parametrize("reason", damaged(bytes(200)))
def test_unusable_file_is_ignored_with_one_line(folder: Folder, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    write(folder.cache(), entry(1))
    (file,) = folder.files()
    file.write_bytes(damaged(file.read_bytes())[reason])
    cache = folder.cache()
    for _ in range(3):
        assert read(cache, tokens(1)) is None
        (folder.path / "change").mkdir(exist_ok=True)  # the folder is read again
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert reason.strip() in line
    assert str(file) in line
    assert cache.stats().n_failures == 1

    assert write(cache, entry(1))  # the same tokens, evaluated again, replace the file
    assert read(cache, tokens(1)) is not None


def test_files_of_other_models_and_other_programs_are_left_alone(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder.cache(fingerprint=OTHER_MODEL), entry(1))
    (folder.path / "notes.txt").write_text("keep me")
    (folder.path / "folder.prompt").mkdir()
    cache = folder.cache(limit=SIZE + 2000)
    assert cache.best(tokens(1)) == (None, 0)
    assert len(folder.files()) == 3
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    write(cache, entry(2))  # there is space for one state: that of the other model goes
    assert [path.name for path in folder.files() if path.suffix != ".prompt"] == ["notes.txt"]
    assert cache.best(tokens(2))[1] == 100
    assert folder.cache(fingerprint=OTHER_MODEL).best(tokens(1)) == (None, 0)


def test_state_that_the_backend_refuses_is_not_offered_again(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    cache = folder.cache()
    write(cache, entry(1))
    found = read(cache, tokens(1))
    assert found is not None
    PromptCache(0, cache).discard(found, "it does not fit")
    assert cache.best(tokens(1)) == (None, 0)
    assert [record.getMessage().endswith("it does not fit") for record in caplog.records[-1:]] == [True]


# --- space


def test_least_recently_used_states_leave_a_full_folder(folder: Folder) -> None:
    cache = folder.cache(limit=3 * (SIZE + 1000))
    for seed in (1, 2, 3):
        write(cache, entry(seed))
        for file in folder.files():
            age(file, 100)
    assert read(cache, tokens(1)) is not None  # used: now 2 is the oldest
    write(cache, entry(4))
    assert [seed for seed in (1, 2, 3, 4) if cache.holds(tokens(seed))] == [1, 3, 4]
    assert len(folder.files()) == 3


def test_state_larger_than_the_limit_is_not_written(folder: Folder) -> None:
    cache = folder.cache(limit=SIZE)
    assert not cache.accepts(SIZE)
    assert not write(cache, entry(1))
    assert folder.files() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_full_disk_is_logged_once(
    folder: Folder, number: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = folder.cache()

    def fail(*args: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        for seed in (1, 2):
            assert not write(cache, entry(seed))
            assert not cache.holds(tokens(seed))
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert os.strerror(number) in line
    assert folder.files() == []  # no temporary file is left
    assert write(cache, entry(1))
    assert (cache.stats().n_writes, cache.stats().n_failures) == (1, 2)


def test_read_only_folder_is_read_but_not_written_to(
    folder: Folder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder.cache(), entry(1))

    def refuse(*args: Any, **more: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("utime", "unlink", "replace"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    cache = folder.cache()
    assert read(cache, tokens(1)) is not None
    assert not write(cache, entry(2))
    assert not cache.accepts(1)  # so that no further state is copied in vain
    assert read(cache, tokens(1)) is not None
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--cache-disk: .* cannot be used"):
        DiskCache(tmp_path / "file" / "folder", 1, MODEL, N_CTX)


def test_states_that_come_faster_than_they_are_written_are_dropped(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafw.engine.disk_cache._MAX_PENDING_BYTES", 2.5 * SIZE)
    go = threading.Event()
    cache = folder.cache()
    futures = [cache.add(entry(seed), lambda: go.wait(60)) for seed in (1, 2, 3)]
    assert [future is None for future in futures] == [False, False, True]
    go.set()
    cache.close()
    assert (cache.stats().n_writes, cache.stats().n_failures) == (2, 1)


# --- interrupted writes


def test_abandoned_write_leaves_no_file(folder: Folder) -> None:
    cache = folder.cache()
    assert not cache.write(entry(1), lambda: False)
    assert folder.files() == []
    assert not cache.holds(tokens(1))


KILLED = """\
import sys, time
from pathlib import Path
import numpy as np
from llamafw.engine import atomic_files
from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.prompt_cache import Entry
atomic_files._PIECE_BYTES = 1000
pieces = []
def may_continue():
    pieces.append(1)
    if len(pieces) == 8:
        print("half written", flush=True)
        sys.stdin.read()
    return True
cache = DiskCache(Path(sys.argv[1]), 2**30, b"\\x01" * 32, 4096)
entry = Entry(np.arange(100, dtype=np.int32), np.ones(10_000, np.uint8))
cache.write(entry, may_continue)
"""


def test_server_that_is_killed_while_it_writes_damages_nothing(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    cache = folder.cache(limit=3 * SIZE)
    write(cache, entry(1))
    command = [sys.executable, "-c", KILLED, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half written\n"
        process.kill()
    (partial,) = [path for path in folder.files() if path.name.startswith(".prompt-")]
    assert 0 < partial.stat().st_size < 10_000
    restarted = folder.cache(limit=3 * SIZE)
    assert restarted.best(np.arange(100, dtype=np.int32)) == (None, 0)
    assert read(restarted, tokens(1)) is not None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    write(restarted, entry(2))
    assert partial.exists()  # another server may still be writing it
    age(partial, 3600)
    write(restarted, entry(3, size=10))
    assert not partial.exists()


def test_state_with_adapters_is_only_found_with_the_same_ones(folder: Folder) -> None:
    sql, weak = (("a" * 32, 1.0), ("b" * 32, -0.25)), (("a" * 32, 0.5),)
    states = {adapters: replace(entry(1, cuts=(40,)), adapters=adapters) for adapters in ((), sql, weak)}
    with_cache = folder.cache()
    assert all(write(with_cache, one) for one in states.values())
    assert len(folder.files()) == 3
    for cache in (with_cache, folder.cache()):
        for adapters, written in states.items():
            found = read(cache, tokens(1), adapters)
            assert found is not None
            assert (found.adapters, found.cuts) == (adapters, written.cuts)
            assert cache.holds(tokens(1), adapters)
        assert cache.best(tokens(1), (("a" * 32, 2.0),)) == (None, 0)
    with_cache.discard(states[sql], "it does not fit")
    assert [with_cache.holds(tokens(1), adapters) for adapters in states] == [True, False, True]
