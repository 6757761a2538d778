"""Commands that are ended by a signal leave no incomplete file, and those of killed ones are removed later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamafw import ModelError
from llamafw.cli.main import main
from llamafw.models.end_signals import raised_signals
from llamafw.models.part_files import part_file, part_files
from llamafw.testing.tiny import write_tiny_gguf

has_signals = pytest.mark.skipif(os.name == "nt", reason="signals end a process on Windows without telling it")

WAITING = """
import sys
import numpy as np
from llamafw import hookimpl

class Waiting:
    name, type_id, block_size, type_size = "WAITING", 0x5152, 1, 1
    def dequantize(self, data, shape):
        return data.view(np.int8).astype(np.float32).reshape(shape)
    def quantize(self, values, importance=None):
        print("writing", flush=True)
        sys.stdin.read()
        return np.zeros(values.shape, np.uint8)

@hookimpl
def register_quants(register): register("WAITING", Waiting())
"""
NO_PROCESS = 999_999_999  # larger than any process number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model and a type whose rounding begins and waits until stdin ends."""
    write_tiny_gguf(tmp_path / "source.gguf", types="F16")
    (tmp_path / "waiting.py").write_text(WAITING)
    return tmp_path


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none


@contextmanager
def writing(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start ``llamafw quantize`` and yield its process while it writes the file."""
    words = "quantize", folder / "source.gguf", folder / "target.gguf", "--type", "WAITING", "--threads", "1", "--quiet"
    command = [sys.executable, "-m", "llamafw", *map(str, words), "--plugin", str(folder / "waiting.py")]
    before = signal.getsignal(HANGUP)
    signal.signal(HANGUP, signal.SIG_DFL)  # under nohup it is ignored, also in the processes that are started
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(HANGUP, before)
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "writing\n"
            assert parts(folder) == [f".target.gguf.{process.pid}.part"]
            yield process
        finally:
            process.kill()


@has_signals
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signal_removes_the_incomplete_file(folder: Path, name: str) -> None:
    number = signal.Signals[name]
    with writing(folder) as process:
        process.send_signal(number)
        process.communicate(timeout=60)  # ends stdin
        assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert parts(folder) == []
    assert not (folder / "target.gguf").exists()


@has_signals
def test_next_command_removes_the_file_of_a_killed_one(folder: Path) -> None:
    with writing(folder) as process:
        process.kill()
        process.wait(60)
    others = [f".target.gguf.{os.getppid()}.part", f".other.gguf.{NO_PROCESS}.part", ".target.gguf.old.part"]
    for name in others:
        (folder / name).touch()
    assert len(parts(folder)) == 4
    words = "quantize", folder / "source.gguf", folder / "target.gguf", "--type", "q8_0", "--quiet"
    assert main([str(word) for word in words]) == 0
    assert parts(folder) == sorted(others)


def test_file_is_removed_if_the_block_raises(tmp_path: Path) -> None:
    (path := tmp_path / "a.bin").write_text("before")

    def fail() -> None:
        with part_file(path) as part:
            part.write_text("after")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_text() == "before"
    with part_file(path) as part:
        part.write_text("after")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["after"]


@has_signals
def test_ignored_and_handled_signals_stay_so() -> None:
    def handle(number: int, frame: object) -> None:
        raise AssertionError("nobody sends it")

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, handle)
    try:
        with raised_signals():
            during = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
        after = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert during == after == (signal.SIG_IGN, handle)


@has_signals
def test_default_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raised_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before is signal.SIG_DFL


# --- several files

NAMES = ("main", "weights", "text")


def read(folder: Path) -> dict[str, str]:
    """Return the contents of all files of a folder, by name."""
    return {one.name: one.read_text() for one in folder.iterdir()}


def write(folder: Path, names: tuple[str, ...], text: str) -> None:
    """Write some of the three files together."""
    with part_files([folder / name for name in NAMES]) as parts:
        for name, part in zip(NAMES, parts, strict=True):
            if name in names:
                part.write_text(text)


@pytest.mark.parametrize("before", [(), NAMES, ("weights",), ("main", "text")])
@pytest.mark.parametrize("after", [NAMES, ("main",), ("main", "weights")])
def test_files_that_belong_together_replace_earlier_ones(
    tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    folder = tmp_path / "new/folder"
    if before:
        write(folder, before, "before")
        (folder / "other").write_text("of somebody else")
    write(folder, after, "after")
    others = {"other": "of somebody else"} if before else {}
    assert read(folder) == dict.fromkeys(after, "after") | others


@pytest.mark.parametrize("before", [(), NAMES])
def test_earlier_files_stay_if_the_block_raises(tmp_path: Path, before: tuple[str, ...]) -> None:
    folder = tmp_path / "folder"
    if before:
        write(folder, before, "before")

    def fail() -> None:
        with part_files([folder / name for name in NAMES]) as parts:
            parts[0].write_text("after")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (read(folder) == dict.fromkeys(before, "before")) if before else not folder.exists()


@pytest.mark.parametrize("before", [(), NAMES, ("main", "text")])
def test_files_are_never_mixed(tmp_path: Path, before: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each renaming may fail, or be the last thing that a process does before it is killed."""
    expected, states, failing = dict.fromkeys(before, "before"), list[dict[str, str]](), 0
    real, n_calls = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal n_calls
        n_calls += 1
        states.append({name: text for name, text in read(tmp_path).items() if name in NAMES})
        if n_calls == failing:
            raise PermissionError("it is open in another process")
        return real(self, target)

    write(tmp_path, before, "before")
    monkeypatch.setattr(Path, "replace", replace)
    for n in range(1, 4 + len(before)):
        failing, n_calls = n, 0
        with pytest.raises(PermissionError):
            write(tmp_path, NAMES, "after")
        assert read(tmp_path) == expected
    failing = n_calls = 0
    write(tmp_path, NAMES, "after")
    assert n_calls == 3 + len(before)
    assert read(tmp_path) == dict.fromkeys(NAMES, "after")
    assert len(states) >= 9
    for state in states:
        assert "main" not in state or state == expected


def test_files_that_do_not_fit_on_the_disk_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(ModelError, match=r"main needs 1152921504607 MB, but only \d+ MB are free on the disk"):
        part_files([folder / name for name in NAMES], 2**60).__enter__()
    assert not folder.exists()
