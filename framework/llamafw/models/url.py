"""Models from addresses (``--model-url``): fetched into the cache once, asked for again only if they have changed.

``FILE.json`` beside a file says which version it is. This module knows nothing of what is in a model.
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
from llamafw.models.parts import parts
from llamafw.models.progress import Progress

log = logging.getLogger("llamafw.models")


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a file that was fetched."""

    version: Version
    size: int  # bytes
    url: str | None = None  # without password and query; None: recorded by an earlier version of llamafw

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Return the record of the file at ``path``; None if there is no file, or it is not the one recorded."""
        try:
            values = json.loads(_record_of(path).read_text(encoding="utf-8"))
            record = cls(Version(**values["version"]), values["size"], values.get("url"))
            return record if path.stat().st_size == record.size else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Put the record beside the file."""
        _record_of(path).write_text(json.dumps(asdict(self)), encoding="utf-8")


def pull_url(
    url: str, *, path: Path | None = None, token: str | None = None, offline: bool = False, progress: bool = True
) -> Path:
    """Return the file that ``url`` leads to, fetched first if it is not there, with its other parts if it has any.

    Parameters
    ----------
    url : str
        http or https; ``#sha256=…`` at its end is what the file's checksum must be.
    path : Path, optional
        Where to keep it; by default a folder of its own in `llamafw.models.folders.downloads_dir`.
    token : str, optional
        For Hugging Face, and sent nowhere else.
    offline : bool
        Do without the network.
    progress : bool
        Show on stderr what is going on.

    Raises
    ------
    SettingsError
        The address makes no sense.
    DownloadError
        The file cannot be fetched, verified or stored; the message says what to do.
    """
    sources = _parts(_source(url, token))
    first = sources[0]
    if len(sources) > 1 and (first.sha256 or path):
        what = "#sha256= is of one file" if first.sha256 else "--model names one file"
        raise SettingsError(f"{what}, but {first.shown} is the first of {len(sources)} parts of a model; leave it out")
    if path is None:
        path = default_path(first.url)
    for source in sources:
        place = path if source is first else path.with_name(_file_name(source.url))
        if not offline:
            fetch_once(source, place, progress)
        elif not place.is_file():
            raise DownloadError(f"{source.shown} is not in the cache ({place}), and --offline forbids to fetch it")
    return path


def default_path(url: str) -> Path:
    """Return where the file that ``url`` leads to is kept unless ``--model`` says otherwise."""
    address = urldefrag(url)[0]
    return downloads_dir() / hashlib.sha256(address.encode()).hexdigest()[:16] / _file_name(address)


def fetch_once(source: Source, path: Path, progress: bool) -> Path:
    """Return ``path``, with the source's file in it; one process fetches, others wait."""
    if _is_pinned(Record.read(path), source):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Progress(path.name, progress) as bar, locked(path.with_name(f".{path.name}.lock"), bar.waiting):
            _bring_up_to_date(source, path, bar)
    except OSError as exc:
        raise DownloadError(f"{path.name} cannot be stored in {path.parent}: {exc.strerror or exc}") from exc
    return path


def _bring_up_to_date(source: Source, path: Path, bar: Progress) -> None:
    """Fetch the file unless it is there and current."""
    record = Record.read(path)
    if _is_pinned(record, source) or (record is None and path.is_file() and _is_someones(source, path, bar)):
        return
    have = record.version if record and not source.sha256 else None
    if have and not have.condition:
        return  # the server gave nothing to tell another version by
    try:
        version = fetch(source, path, bar, have)
    except (StatusError, UnreachableError) as exc:
        if have is None:
            raise
        log.warning("%s; the file fetched before is used", exc)
        return
    if version is not None:
        Record(version, path.stat().st_size, source.shown).write(path)


def _is_pinned(record: Record | None, source: Source) -> bool:
    """Say whether the file is there and has the checksum that is asked for: then the network has nothing to add."""
    return record is not None and source.sha256 is not None and record.version.sha256 == source.sha256


def _is_someones(source: Source, path: Path, bar: Progress) -> bool:
    """Say yes to a file that we did not put there: it is used as it is, and never overwritten."""
    if source.sha256 and (found := sha256_of(path, bar)) != source.sha256:
        raise DownloadError(f"{path} is there already and is another file: its SHA-256 is {found}, not {source.sha256}")
    return True


def _source(url: str, token: str | None) -> Source:
    address, fragment = urldefrag(url)
    try:
        split = urlsplit(address)
        valid = split.scheme in ("http", "https") and bool(split.hostname) and (split.port is None or split.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(f"--model-url: {url!r} is not an address that starts with https:// or http://")
    checksum = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if fragment and not checksum:
        raise SettingsError(f"--model-url: #{fragment} is not #sha256= and 64 hexadecimal digits")
    return Source(url=address, headers=_headers(address, token), sha256=checksum[1].lower() if checksum else None)


def _parts(source: Source) -> list[Source]:
    """Return where all parts of the model are whose first part, or only file, is at ``source``."""
    address = urlsplit(source.url)
    folder, slash, name = address.path.rpartition("/")
    names = parts(name)
    if names[0] != name:
        raise SettingsError(f"--model-url: {name} is one of {len(names)} parts of a model; name the first, {names[0]}")
    return [replace(source, url=address._replace(path=folder + slash + part).geturl()) for part in names]


def _headers(url: str, token: str | None) -> Mapping[str, str]:
    """Return the token as a header, if the address is the hub's."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return {"Authorization": f"Bearer {token}"} if token and urlsplit(url)[:2] == hub[:2] else {}


def _file_name(url: str) -> str:
    """Return a name for the file that is safe on every system."""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(". ")[-200:] or "model.gguf"


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
