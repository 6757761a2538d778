"""List and remove the models that llamafw has downloaded: from the catalogue, from URLs and from Hugging Face.

Files that other programs put into the same folders are neither listed nor removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llamafw.errors import DownloadError, ModelError, SettingsError, did_you_mean
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.choose_checkpoint import CONFIG
from llamafw.models.choose_model import choose_model
from llamafw.models.folders import downloads_dir, hub_dir, models_dir
from llamafw.models.huggingface import FETCH_LOCK_SUFFIX, Repo
from llamafw.models.parts import is_first_part, part_names
from llamafw.models.url import Record, default_path
from llamafw.models.wheels import record_path

_URL_FOLDER = re.compile("[0-9a-f]{16}")
_REPO_FOLDER = re.compile("models--(.+?)--(.+)")


@dataclass(frozen=True, slots=True)
class Download:
    """A model that was downloaded, of one or several files."""

    name: str  # identifies it for `remove`: "smollm2-135m", "USER/REPO/FILE", "USER/REPO", or the name of a URL's file
    source: str  # "catalogue", "Hugging Face", or the URL without password and query
    path: Path  # the file to serve, the first part if there are several, or the folder of a checkpoint
    size: int  # bytes of all parts
    files: tuple[Path, ...]  # all files that `remove` removes: the parts, and files that llamafw keeps about them


def list_downloads() -> list[Download]:
    """Return all downloaded models, sorted by source and name."""
    downloads = [*_catalogue_downloads(), *_url_downloads(), *_hub_downloads()]
    return sorted(downloads, key=lambda download: (download.source, download.name))


def find_downloads(name: str) -> list[Download]:
    """Return the downloaded models that a name identifies.

    Parameters
    ----------
    name : str
        A name of the catalogue, a URL, the name of a file from a URL, USER/REPO[:QUANT] or USER/REPO/FILE. USER/REPO
        identifies all models of the repository. Or the absolute path of a downloaded model.

    Raises
    ------
    ModelError
        There is no such model, or the name belongs to files of several URLs.
    """
    downloads = list_downloads()
    if "://" in name:
        path = default_path(name)
        found = [download for download in downloads if download.path.parent == path.parent]
    elif Path(name).is_absolute():
        found = [download for download in downloads if download.path == Path(name)]
        if not found:
            raise ModelError(f"{name} is not a downloaded model in the cache; `llamafw models` lists these")
    else:
        found = [download for download in downloads if download.name == name] or _in_repository(name, downloads)
    if not found:
        hint = did_you_mean(name, [download.name for download in downloads])
        raise ModelError(f"no downloaded model is called {name!r}{hint or '; `llamafw pull --list` lists them'}")
    if len({download.name for download in found}) < len(found):
        urls = ", ".join(download.source for download in found)
        raise ModelError(f"{name!r} was downloaded from several URLs; use one of these instead: {urls}")
    return found


def remove(download: Download) -> None:
    """Remove a downloaded model with all its files.

    Raises
    ------
    DownloadError
        A file is not in a folder of downloaded models, so that nothing is removed; or a file cannot be removed, for
        instance because it is in use.
    """
    folders = [folder.resolve() for folder in (models_dir(), downloads_dir(), hub_dir())]
    for file in download.files:
        parent = file.parent.resolve()
        if not any(parent.is_relative_to(folder) for folder in folders):
            raise DownloadError(f"{download.name} is not removed: {file} is outside of the cache")
    for file in download.files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise DownloadError(f"{file} cannot be removed: {error.strerror or error}") from error
    for folder in {parent for file in download.files for parent in _cache_folders(file)}:
        _remove_empty(folder)
    if download.source == "catalogue":
        _remove_empty(download.path)  # a model that is a folder


def _catalogue_downloads() -> Iterator[Download]:
    for name, entry in CATALOGUE.items():
        path = models_dir() / entry.file
        files = entry.paths(path)
        if all(file.is_file() for file in files):
            size = sum(file.stat().st_size for file in files)
            yield Download(name, "catalogue", path, size, (*files, record_path(path)))


def _url_downloads() -> Iterator[Download]:
    for folder in _folders(downloads_dir()):
        if not _URL_FOLDER.fullmatch(folder.name):
            continue
        records = {path: record for path in sorted(folder.iterdir()) if (record := Record.read(path))}
        first = next((path for path in records if is_first_part(path.name)), None)
        if first is not None:
            size = sum(record.size for record in records.values())
            source = records[first].url or "a URL"
            yield Download(first.name, source, first, size, tuple(folder.iterdir()))


def _hub_downloads() -> Iterator[Download]:
    cache = hub_dir()
    for folder in _folders(cache):
        if match := _REPO_FOLDER.fullmatch(folder.name):
            yield from _repo_downloads(f"{match[1]}/{match[2]}", cache, folder)


def _repo_downloads(repo_id: str, cache: Path, folder: Path) -> Iterator[Download]:
    """Yield the models of a repository that llamafw has downloaded.

    Their lock files show which these are.
    """
    locks = cache / ".locks" / folder.name
    fetched = {path.name.removesuffix(FETCH_LOCK_SUFFIX) for path in locks.glob(f"*{FETCH_LOCK_SUFFIX}")}
    links: dict[str, list[Path]] = {}  # path in the repository → its file in each snapshot
    blobs: dict[str, set[Path]] = {}  # path in the repository → where the contents are
    for file in sorted((folder / "snapshots").glob("*/**/*")):
        blob = _blob(file, folder / "blobs", fetched) if file.is_file() else None
        if blob is not None:
            name = "/".join(file.relative_to(folder / "snapshots").parts[1:])
            links.setdefault(name, []).append(file)
            blobs.setdefault(name, set()).add(blob)

    def download(label: str, names: Sequence[str]) -> Download:
        contents = {blob for name in names for blob in blobs[name]}
        size = sum(blob.stat().st_size for blob in contents)
        lock_files = [locks / f"{blob.name}{FETCH_LOCK_SUFFIX}" for blob in contents]
        files = [*(file for name in names for file in links[name]), *contents, *lock_files]
        path = max(links[names[0]], key=lambda file: file.lstat().st_mtime)  # of the newest snapshot
        return Download(label, "Hugging Face", path, size, tuple(files))

    rest = set(links)
    if CONFIG in links:
        names = [CONFIG, *(name for name in links if name != CONFIG and not name.lower().endswith(".gguf"))]
        checkpoint = download(repo_id, names)
        yield replace(checkpoint, path=checkpoint.path.parent)
        rest -= set(names)
    for name in links:
        if name in rest and is_first_part(name):
            yield download(f"{repo_id}/{name}", [part for part in part_names(name) if part in rest])


def _blob(file: Path, blobs: Path, fetched: Collection[str]) -> Path | None:
    """Return the content of a file in a snapshot; None if llamafw has not downloaded it."""
    if file.is_symlink():
        blob = file.resolve()
        return blob if blob.name in fetched else None
    size = file.stat().st_size  # where there are no symbolic links, the file is a copy
    candidates = (blobs / name for name in sorted(fetched))
    return next((blob for blob in candidates if blob.is_file() and blob.stat().st_size == size), None)


def _in_repository(name: str, downloads: Sequence[Download]) -> list[Download]:
    """Return the downloads that USER/REPO or USER/REPO:QUANT identifies."""
    try:
        repo = Repo.parse(name)
    except SettingsError:
        return []
    found = {
        download.name.removeprefix(f"{repo.id}/"): download
        for download in downloads
        if download.source == "Hugging Face" and download.name.startswith(f"{repo.id}/")
    }
    if found and repo.quant:
        return [found[choose_model(found, repo.quant, f"the cache of {repo.id}")]]
    return list(found.values())


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _cache_folders(file: Path) -> list[Path]:
    """Return the folders around a file that belong to its model alone: a URL's folder, or those of a repository."""
    folders: list[Path] = []
    for parent in file.parents:
        folders.append(parent)
        if _URL_FOLDER.fullmatch(parent.name) or _REPO_FOLDER.fullmatch(parent.name):
            return folders
    return []


def _remove_empty(folder: Path) -> None:
    """Remove a folder if it has no files except those in which the hub's client stores revisions."""
    if not folder.is_dir():
        return
    files = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    if any(file.parts[0] not in ("refs", ".no_exist") for file in files):
        return
    with suppress(OSError):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
