"""Fetch one file over HTTP: resumed where it stopped, verified, and under its name only when it is whole.

Until then it lies beside that name in ``NAME.part``, and ``NAME.part.json`` says which version of the file it is a
part of. This module knows nothing of models, caches and hubs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from llamafw.errors import DownloadError
from llamafw.models.progress import Progress

if TYPE_CHECKING:
    import httpx2

CHUNK = 2**20  # bytes read at once to verify a file
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # seconds
WAY_OUT = "check the network and the proxy (HTTPS_PROXY), or start with -m FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a file is, and what is known of it before."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)  # Authorization is not sent on to another host
    sha256: str | None = None  # hexadecimal
    size: int | None = None  # bytes

    @property
    def shown(self) -> str:
        """The address for people and logs: without password and query, which may be secrets."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one version of a file from another: its headers ETag and Last-Modified, or its checksum."""

    etag: str | None = None
    modified: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, response: httpx2.Response, source: Source) -> Version:
        """Return the version that a response brings."""
        return cls(response.headers.get("ETag"), response.headers.get("Last-Modified"), source.sha256)

    @property
    def condition(self) -> dict[str, str]:
        """Headers that ask for the file only if it is another version."""
        pairs = (("If-None-Match", self.etag), ("If-Modified-Since", self.modified))
        return {name: value for name, value in pairs if value}

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` takes: a strong ETag or a time."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class StatusError(DownloadError):
    """The server answered with an HTTP error."""

    def __init__(self, source: Source, status: int, code: str) -> None:
        known = {member.value: f" {member.phrase}" for member in HTTPStatus}
        hint = "; try again later" if status >= 500 or status == 429 else ""
        super().__init__(f"{source.shown} cannot be fetched: the server says {status}{known.get(status, '')}{hint}")
        self.status, self.code = status, code  # code: the hub's X-Error-Code


class UnreachableError(DownloadError):
    """The server was not reached, or the connection broke and nothing more came."""


class Part:
    """The file until it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self.note = path.with_name(f"{path.name}.part.json")

    @property
    def size(self) -> int:
        """How many bytes are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def version(self) -> Version:
        """The version that the bytes are a part of."""
        try:
            return Version(**json.loads(self.note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Version()

    def begin(self, version: Version) -> None:
        """Start over."""
        self.discard()
        self.note.write_text(json.dumps(asdict(version)), encoding="utf-8")
        self.path.touch()

    def discard(self) -> None:
        """Remove what is there."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def fetch(source: Source, path: Path, bar: Progress, have: Version | None = None) -> Version | None:
    """Put the file at ``path``; return its version, or None if the server still has the version ``have``.

    The caller sees to it that nobody else fetches to ``path`` meanwhile.

    Raises
    ------
    DownloadError
        The file cannot be fetched, verified or stored; the message says what to do.
    """
    import httpx2

    part = Part(path)
    try:
        version = _receive(source, part, bar, have)
        if version is None:
            return None
        _verify(source, part, bar)
        os.replace(part.path, path)
        part.discard()
        return version
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        kept = "; what has come so far is kept, and the next start goes on from there" if part.size else ""
        raise UnreachableError(f"{source.shown} cannot be fetched: {explain(exc)}; {WAY_OUT}{kept}") from exc
    except OSError as exc:
        needs = f"; it needs {source.size / 1e6:.1f} MB" if source.size else ""
        raise DownloadError(f"{path.name} cannot be stored in {path.parent}: {exc.strerror or exc}{needs}") from exc


def explain(exc: Exception) -> str:
    """Return in a few words why a request failed."""
    import httpx2

    said = re.sub(r"\s+", " ", str(exc)).strip().rstrip(".")[:200]
    if isinstance(exc, httpx2.TimeoutException):
        return "the server does not answer in time"
    if isinstance(exc, httpx2.ConnectError | httpx2.ProxyError):
        return f"the server cannot be reached ({said})"
    return f"the connection broke ({said or type(exc).__name__})"


def _receive(source: Source, part: Part, bar: Progress, have: Version | None) -> Version | None:
    """Bring the part to its full size, in as many requests as it takes while each gets further."""
    import httpx2

    timeout, reached = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT), part.size
    with httpx2.Client(follow_redirects=True, timeout=timeout) as client:
        while True:
            start, known = _resumable(source, part)
            if start and start == source.size:
                return known
            headers = {**source.headers, "Accept-Encoding": "identity", **(have.condition if have else {})}
            if start:
                headers["Range"] = f"bytes={start}-"
                if not source.sha256 and known.validator:
                    headers["If-Range"] = known.validator
            try:
                with client.stream("GET", source.url, headers=headers) as response:
                    if have and (response.status_code == 304 or _is_same(response, source, have)):
                        return None
                    if response.status_code == 416 and start:
                        if response.headers.get("Content-Range") == f"bytes */{start}":
                            return known  # all of it was there
                        part.discard()
                        continue
                    return _store(source, part, response, start, bar)
            except httpx2.TransportError:
                if part.size <= reached:
                    raise
                reached = part.size


def _is_same(response: httpx2.Response, source: Source, have: Version) -> bool:
    """Say whether a server that takes no conditions sends what is there already."""
    version = Version.of(response, source)
    return response.status_code == 200 and (version.etag, version.modified) == (have.etag, have.modified)


def _resumable(source: Source, part: Part) -> tuple[int, Version]:
    """Return how many bytes of the part can be kept, and of which version they are."""
    version, size = part.version, part.size
    kept = version.sha256 == source.sha256 if source.sha256 else bool(version.validator)
    if not kept or (source.size is not None and size > source.size):
        part.discard()
        return 0, Version()
    return size, version


def _store(source: Source, part: Part, response: httpx2.Response, start: int, bar: Progress) -> Version:
    """Append what the response brings to the part, or replace it if the server sends the file from its start."""
    status = response.status_code
    if status >= 300 or status not in (200, 206):
        raise StatusError(source, status, response.headers.get("X-Error-Code", ""))
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError(f"{source.shown} is a web page, not a model: give the address that the file downloads from")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "")) if status == 206 else None
    if status == 206 and (not span or int(span[1]) != start):
        part.discard()
        raise DownloadError(f"{source.shown} cannot be fetched: the server sends another part than it was asked for")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"{source.shown} cannot be fetched: the server compresses it, though asked not to")
    length = response.headers.get("Content-Length", "")
    size = int(span[2]) if span else int(length) if length.isdigit() else source.size
    if source.size is not None and size != source.size:
        raise DownloadError(f"{source.shown} is not what it should be: it has {size} bytes, not {source.size}")
    if not span:
        start = 0
        part.begin(Version.of(response, source))
    _check_room(part.path, (size or 0) - start)
    bar.step("downloading", size)
    with part.path.open("ab") as file:
        for chunk in response.iter_bytes():
            file.write(chunk)
            bar.reach(file.tell())
        file.flush()
        os.fsync(file.fileno())
    return part.version


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DownloadError(
            f"{path.parent} has {free / 1e6:.1f} MB free, and {needed / 1e6:.1f} MB are needed; make room, or set "
            "LLAMA_CACHE to another folder"
        )


def _verify(source: Source, part: Part, bar: Progress) -> None:
    """Hold the part against its size and checksum, if these are known; remove it if it is something else."""
    size = part.size
    found = f"it has {size} bytes, not {source.size}" if source.size not in (None, size) else None
    if found is None and source.sha256:
        digest = sha256_of(part.path, bar)
        found = f"its SHA-256 is {digest}, not {source.sha256}" if digest != source.sha256 else None
    if found:
        part.discard()
        raise DownloadError(f"{source.shown} is not what it should be: {found}; what was downloaded has been removed")


def sha256_of(path: Path, bar: Progress) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    bar.step("verifying", path.stat().st_size)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.reach(file.tell())
    return digest.hexdigest()
