"""Download models from URLs (``--model-url``) into the cache, and again only if they have changed.

``FILE.json`` next to a file records its version. Independent of the content of models.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from llamafw.errors import DownloadError, SettingsError
from llamafw.models.fetch import Source, StatusError, UnreachableError, Version, fetch, sha256_of
from llamafw.models.folders import downloads_dir
from llamafw.models.lock import locked
from llamafw.models.parts import part_names
from llamafw.models.progress import Progress

log = logging.getLogger("llamafw.models")


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a downloaded file, stored next to it."""

    version: Version
    size: int  # bytes
    url: str | None = None  # without password and query; None in records of earlier versions of llamafw

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Return the record of the file at ``path``; None if there is no record or it describes another file."""
        try:
            values = json.loads(_record_path(path).read_text(encoding="utf-8"))
            record = cls(Version(**values["version"]), values["size"], values.get("url"))
            return record if path.stat().st_size == record.size else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Write the record next to the file."""
        _record_path(path).write_text(json.dumps(asdict(self)), encoding="utf-8")


def pull_url(
    url: str, *, path: Path | None = None, token: str | None = None, offline: bool = False, progress: bool = True
) -> Path:
    """Return the file of a URL; download it, and the other parts of its model, first if necessary.

    Parameters
    ----------
    url : str
        An http or https URL. A fragment ``#sha256=…`` is the required checksum of the file.
    path : Path, optional
        The file to download to. By default, each URL has its own folder in `llamafw.models.folders.downloads_dir`.
    token : str, optional
        For Hugging Face; other hosts do not receive it.
    offline : bool
        Do not use the network.
    progress : bool
        Show progress on stderr.

    Raises
    ------
    SettingsError
        The URL is invalid.
    DownloadError
        The file cannot be downloaded, verified or stored; the message says what to do.
    """
    sources = _part_sources(_parse_url(url, token))
    first = sources[0]
    if len(sources) > 1 and (first.sha256 or path):
        flag = "#sha256= describes one file" if first.sha256 else "--model names one file"
        raise SettingsError(f"{flag}, but {first.public_url} is the first of {len(sources)} parts; leave it out")
    if path is None:
        path = default_path(first.url)

    for source in sources:
        part_path = path if source is first else path.with_name(_file_name(source.url))
        if not offline:
            fetch_once(source, part_path, progress)
        elif not part_path.is_file():
            raise DownloadError(f"{source.public_url} is not in the cache ({part_path}), and --offline is set")
    return path


def default_path(url: str) -> Path:
    """Return the file that a URL is downloaded to, unless ``--model`` names another."""
    address = urldefrag(url)[0]
    return downloads_dir() / hashlib.sha256(address.encode()).hexdigest()[:16] / _file_name(address)


def fetch_once(source: Source, path: Path, progress: bool) -> Path:
    """Download the file to ``path`` if it is missing or outdated, and return ``path``.

    Other processes wait.
    """
    if _has_checksum(Record.read(path), source):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Progress(path.name, progress) as bar, locked(path.with_name(f".{path.name}.lock"), bar.report_waiting):
            _update(source, path, bar)
    except OSError as exc:
        raise DownloadError(f"{path.name} cannot be stored in {path.parent}: {exc.strerror or exc}") from exc
    return path


def _update(source: Source, path: Path, progress: Progress) -> None:
    """Download the file unless it exists and is current."""
    record = Record.read(path)
    if _has_checksum(record, source):
        return
    if record is None and path.is_file():
        _check_users_file(source, path, progress)
        return

    current = record.version if record and not source.sha256 else None
    if current and not current.condition:
        return  # the server sent neither ETag nor Last-Modified, so a new version could not be recognised
    try:
        version = fetch(source, path, progress, current)
    except (StatusError, UnreachableError) as exc:
        if current is None:
            raise
        log.warning("%s; the earlier download is used", exc)
        return
    if version is not None:
        Record(version, path.stat().st_size, source.public_url).write(path)


def _has_checksum(record: Record | None, source: Source) -> bool:
    """Return whether the file has the required checksum.

    If it has, the server is not asked.
    """
    return record is not None and source.sha256 is not None and record.version.sha256 == source.sha256


def _check_users_file(source: Source, path: Path, progress: Progress) -> None:
    """Raise DownloadError if a file that the user put there has another checksum: it must not be overwritten."""
    if source.sha256 and (digest := sha256_of([path], progress)) != source.sha256:
        raise DownloadError(f"{path} already exists and is another file: its SHA-256 is {digest}, not {source.sha256}")


def _parse_url(url: str, token: str | None) -> Source:
    address, fragment = urldefrag(url)
    try:
        split = urlsplit(address)
        valid = split.scheme in ("http", "https") and bool(split.hostname) and (split.port is None or split.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(f"{url!r} is not a valid URL; it must start with https:// or http://")
    checksum = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if fragment and not checksum:
        raise SettingsError(f"in the URL, #{fragment} is not #sha256= followed by 64 hexadecimal digits")
    return Source(url=address, headers=_headers(address, token), sha256=checksum[1].lower() if checksum else None)


def _part_sources(source: Source) -> list[Source]:
    """Return the sources of all parts of a model, given the source of its first part or only file."""
    address = urlsplit(source.url)
    folder, slash, name = address.path.rpartition("/")
    names = part_names(name)
    if names[0] != name:
        raise SettingsError(f"{name} is one of the {len(names)} parts of a model; use the first one, {names[0]}")
    return [replace(source, url=address._replace(path=folder + slash + part).geturl()) for part in names]


def _headers(url: str, token: str | None) -> Mapping[str, str]:
    """Return the header with the token if the URL is on Hugging Face."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return {"Authorization": f"Bearer {token}"} if token and urlsplit(url)[:2] == hub[:2] else {}


def _file_name(url: str) -> str:
    """Return a name for the file that is valid on every operating system."""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(". ")[-200:] or "model.gguf"


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
