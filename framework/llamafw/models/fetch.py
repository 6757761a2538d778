"""Download a file over HTTP, resume after interruptions, and verify it.

Independent of models, caches and hubs.

Until a file is complete, it is called ``NAME.part``, and ``NAME.part.json`` records its version.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from llamafw.errors import DownloadError
from llamafw.models.progress import Progress

if TYPE_CHECKING:
    import httpx2

CHUNK = 2**20  # bytes read at once
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # seconds
NETWORK_HINT = "check the network and the proxy (HTTPS_PROXY), or start with -m FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to download: its URL, and the size and checksum that it must have."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)  # redirects to other hosts drop Authorization
    sha256: str | None = None  # in hexadecimal
    size: int | None = None  # bytes

    @property
    def public_url(self) -> str:
        """The URL for messages and logs, without password and query, which may be secrets."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a file, identified by the headers ETag and Last-Modified or by its checksum."""

    etag: str | None = None
    modified: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, response: httpx2.Response, source: Source) -> Version:
        """Return the version of the file in a response."""
        return cls(response.headers.get("ETag"), response.headers.get("Last-Modified"), source.sha256)

    @property
    def condition(self) -> dict[str, str]:
        """Request headers that ask for the file only if it has another version."""
        pairs = (("If-None-Match", self.etag), ("If-Modified-Since", self.modified))
        return {name: value for name, value in pairs if value}

    @property
    def validator(self) -> str | None:
        """The value for ``If-Range``: a strong ETag, or else the time."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class StatusError(DownloadError):
    """The server answered with an HTTP error."""

    def __init__(self, source: Source, status: int, code: str) -> None:
        phrases = {member.value: f" {member.phrase}" for member in HTTPStatus}
        hint = "; try again later" if status >= 500 or status == 429 else ""
        answer = f"{status}{phrases.get(status, '')}"
        super().__init__(f"{source.public_url} cannot be downloaded: the server answered {answer}{hint}")
        self.status, self.code = status, code  # code: the X-Error-Code of Hugging Face


class UnreachableError(DownloadError):
    """The server could not be reached, or the connection broke and could not be resumed."""


class PartialFile:
    """The incomplete file, and the record of its version."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self.version_path = path.with_name(f"{path.name}.part.json")

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def version(self) -> Version:
        """The recorded version."""
        try:
            return Version(**json.loads(self.version_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Version()

    def restart(self, version: Version) -> None:
        """Start again with an empty file of the given version."""
        self.discard()
        self.version_path.write_text(json.dumps(asdict(version)), encoding="utf-8")
        self.path.touch()

    def discard(self) -> None:
        """Remove the file and the record."""
        self.path.unlink(missing_ok=True)
        self.version_path.unlink(missing_ok=True)


def fetch(source: Source, path: Path, progress: Progress, current: Version | None = None) -> Version | None:
    """Download the file to ``path`` and return its version; return None if ``current`` is still its version.

    The caller must make sure that no other process downloads to ``path`` at the same time.

    Raises
    ------
    DownloadError
        The file cannot be downloaded, verified or stored; the message says what to do.
    """
    import httpx2

    part = PartialFile(path)
    try:
        version = _receive(source, part, progress, current)
        if version is None:
            return None
        _verify(source, part, progress)
        os.replace(part.path, path)
        part.discard()
        return version
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        resume = "; the next start resumes the download" if part.size else ""
        reason = describe_network_error(exc)
        raise UnreachableError(f"{source.public_url} cannot be downloaded: {reason}; {NETWORK_HINT}{resume}") from exc
    except OSError as exc:
        needs = f"; it needs {source.size / 1e6:.1f} MB" if source.size else ""
        raise DownloadError(f"{path.name} cannot be stored in {path.parent}: {exc.strerror or exc}{needs}") from exc


def describe_network_error(exc: Exception) -> str:
    """Return the reason of a failed request in a few words."""
    import httpx2

    text = re.sub(r"\s+", " ", str(exc)).strip().rstrip(".")[:200]
    if isinstance(exc, httpx2.TimeoutException):
        return "the server did not answer in time"
    if isinstance(exc, httpx2.ConnectError | httpx2.ProxyError):
        return f"the server cannot be reached ({text})"
    return f"the connection broke ({text or type(exc).__name__})"


def _receive(source: Source, part: PartialFile, progress: Progress, current: Version | None) -> Version | None:
    """Complete the partial file.

    After a broken connection, try again as long as each request adds bytes.
    """
    import httpx2

    timeout, last_size = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT), part.size
    with httpx2.Client(follow_redirects=True, timeout=timeout) as client:
        while True:
            start, version = _find_resumable(source, part)
            if start and start == source.size:
                return version
            headers = {**source.headers, "Accept-Encoding": "identity", **(current.condition if current else {})}
            if start:
                headers["Range"] = f"bytes={start}-"
                if not source.sha256 and version.validator:
                    headers["If-Range"] = version.validator

            try:
                with client.stream("GET", source.url, headers=headers) as response:
                    if current and (response.status_code == 304 or _has_version(response, source, current)):
                        return None
                    if response.status_code == 416 and start:
                        if response.headers.get("Content-Range") == f"bytes */{start}":
                            return version  # the partial file is complete
                        part.discard()
                        continue
                    return _store(source, part, response, start, progress)
            except httpx2.TransportError:
                if part.size <= last_size:
                    raise
                last_size = part.size


def _has_version(response: httpx2.Response, source: Source, current: Version) -> bool:
    """Return whether a server that ignores conditions is sending the current version again."""
    version = Version.of(response, source)
    return response.status_code == 200 and (version.etag, version.modified) == (current.etag, current.modified)


def _find_resumable(source: Source, part: PartialFile) -> tuple[int, Version]:
    """Return how many bytes of the partial file can be kept, and its version; discard the file if it cannot be kept."""
    version, size = part.version, part.size
    is_kept = version.sha256 == source.sha256 if source.sha256 else bool(version.validator)
    if not is_kept or (source.size is not None and size > source.size):
        part.discard()
        return 0, Version()
    return size, version


def _store(source: Source, part: PartialFile, response: httpx2.Response, start: int, progress: Progress) -> Version:
    """Append the response to the partial file, or start again if the server sends the file from the beginning."""
    status = response.status_code
    if status >= 300 or status not in (200, 206):
        raise StatusError(source, status, response.headers.get("X-Error-Code", ""))
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError(f"{source.public_url} is a web page, not a model: use the URL of the file itself")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "")) if status == 206 else None
    if status == 206 and (not span or int(span[1]) != start):
        part.discard()
        raise DownloadError(f"{source.public_url} cannot be downloaded: the server sent another range than requested")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(
            f"{source.public_url} cannot be downloaded: the server compresses it, although the request forbids that"
        )

    length = response.headers.get("Content-Length", "")
    size = int(span[2]) if span else int(length) if length.isdigit() else source.size
    if source.size is not None and size != source.size:
        raise DownloadError(f"{source.public_url} is not the expected file: it has {size} bytes, not {source.size}")
    if not span:
        start = 0
        part.restart(Version.of(response, source))
    _check_free_space(part.path, (size or 0) - start)

    progress.start_step("downloading", size)
    with part.path.open("ab") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
            progress.update(file.tell())
        file.flush()
        os.fsync(file.fileno())
    return part.version


def _check_free_space(path: Path, needed: int) -> None:
    """Raise DownloadError if the disk of ``path`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DownloadError(
            f"{path.parent} has {free / 1e6:.1f} MB free, but {needed / 1e6:.1f} MB are needed; free some space, or "
            "set LLAMA_CACHE to another folder"
        )


def _verify(source: Source, part: PartialFile, progress: Progress) -> None:
    """Compare the file with its expected size and checksum, if they are known; remove it if they differ."""
    size = part.size
    difference = f"it has {size} bytes, not {source.size}" if source.size not in (None, size) else None
    if difference is None and source.sha256:
        digest = sha256_of([part.path], progress)
        difference = f"its SHA-256 is {digest}, not {source.sha256}" if digest != source.sha256 else None
    if difference:
        part.discard()
        raise DownloadError(f"{source.public_url} is not the expected file: {difference}; the download was removed")


def sha256_of(paths: Sequence[Path], progress: Progress) -> str:
    """Return the SHA-256 of the contents of files, one after the other, in hexadecimal."""
    progress.start_step("verifying", sum(path.stat().st_size for path in paths))
    digest, n_read = hashlib.sha256(), 0
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                n_read += len(chunk)
                progress.update(n_read)
    return digest.hexdigest()
