"""Download models from Hugging Face (``--hf-repo``) into the hub's own cache, where other tools find them too.

The hub's client lists the files of a repository and manages the cache. `llamafw.models.fetch` downloads the files,
because it resumes interrupted downloads and verifies them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llamafw.errors import DownloadError, SettingsError
from llamafw.models.choose_checkpoint import CONFIG, choose_small_files, choose_weights, has_checkpoint
from llamafw.models.choose_model import choose_model, find_file, find_parts, format_names
from llamafw.models.fetch import NETWORK_HINT, Source, StatusError, UnreachableError, describe_network_error, fetch
from llamafw.models.folders import hub_dir
from llamafw.models.lock import locked
from llamafw.models.progress import Progress
from llamafw.models.url import fetch_once

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

TIMEOUT = 10  # seconds, for the list of a repository's files
DEFAULT_REVISION = "main"
FETCH_LOCK_SUFFIX = ".fetch.lock"
"""Suffix of the lock files of downloaded contents, by which `llamafw.models.downloads` recognises them."""

log = logging.getLogger("llamafw.models")


@dataclass(frozen=True, slots=True)
class Repo:
    """The value of ``--hf-repo``."""

    id: str  # USER/REPO
    revision: str  # branch, tag or commit
    quant: str | None

    @classmethod
    def parse(cls, text: str) -> Repo:
        """Parse USER/REPO[@REVISION][:QUANT]; SettingsError if ``text`` is malformed."""
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([^:@]+))?(?::([\w.-]+))?", text)
        if not match:
            raise SettingsError(f"{text!r} is not a Hugging Face repository: write USER/REPO[@REVISION][:QUANT]")
        return cls(match[1], match[2] or DEFAULT_REVISION, match[3])


def pull_repo(
    text: str,
    file: str | None = None,
    *,
    path: Path | None = None,
    token: str | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """Return a model's file, first part or folder; download it first if it is missing or has changed.

    A repository without GGUF models can have a checkpoint: ``config.json``, safetensors files and a tokenizer.

    Parameters
    ----------
    text : str
        USER/REPO[@REVISION][:QUANT].
    file : str, optional
        The file's path in the repository; by default `llamafw.models.choose_model.choose_model` chooses one.
    path : Path, optional
        The file to download to; by default a file in the hub's cache, or in ``$LLAMA_CACHE`` in the same layout.
    token : str, optional
        By default the token that the hub's client has stored, if any.
    offline : bool
        Do not use the network. HF_HUB_OFFLINE=1 has the same effect.
    progress : bool
        Show progress on stderr.

    Raises
    ------
    SettingsError
        ``text`` is malformed, or has a quantization although ``file`` is given.
    DownloadError
        The model cannot be found, downloaded, verified or stored; the message says what to do.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the client is imported
    repo = Repo.parse(text)
    if repo.quant and file:
        raise SettingsError(f"--hf-repo {text} and --hf-file {file} both choose a file; leave :{repo.quant} out")
    from huggingface_hub import is_offline_mode

    hub = Hub(repo, token, progress)
    if offline or is_offline_mode():
        return hub.find_cached(file, path)
    try:
        return hub.pull(file, path)
    except (UnreachableError, StatusError) as exc:
        with suppress(DownloadError):
            cached = hub.find_cached(file, path)
            log.warning("%s; the file in the cache is used", exc)
            return cached
        raise


class Hub:
    """One repository, on the hub and in the cache."""

    def __init__(self, repo: Repo, token: str | None, progress: bool) -> None:
        from huggingface_hub import HfApi, constants, get_token

        from llamafw import __version__

        self.repo, self.progress = repo, progress
        self.cache = hub_dir()
        self.token = token or (None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token())
        self.client: dict[str, Any] = {
            "library_name": "llamafw",
            "library_version": __version__,
            "token": self.token or False,
        }
        self.api: HfApi = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, **self.client)

    def pull(self, file: str | None, path: Path | None) -> Path:
        """Return the current version of a model; download all its files first if necessary.

        That is the file of a GGUF model, its first part, or the folder of a checkpoint.
        """
        info = self.info()
        files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        names, source = list(files), self.repo.id
        if not file and has_checkpoint(names):
            return self._pull_checkpoint(info, files, path)
        chosen = find_file(names, file, source) if file else choose_model(names, self.repo.quant, source)
        parts = find_parts(names, chosen, source)
        if path is not None and len(parts) > 1:
            raise SettingsError(
                f"--model names one file, but {chosen} is the first of {len(parts)} parts; leave it out"
            )
        return [self._pull_file(info, files[part], path) for part in parts][0]

    def info(self) -> ModelInfo:
        """Return names, sizes and checksums of the files in the repository, as the hub reports them."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return self.api.model_info(self.repo.id, revision=self.repo.revision, files_metadata=True, timeout=TIMEOUT)
        except HfHubHTTPError as exc:
            self._raise_refusal(exc)
        except (httpx2.HTTPError, httpx2.InvalidURL, ConnectionError) as exc:
            message = f"{self.repo.id} cannot be downloaded from {self.api.endpoint}: {describe_network_error(exc)}"
            raise UnreachableError(f"{message}; {NETWORK_HINT}") from exc
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise DownloadError(f"{self.api.endpoint} (HF_ENDPOINT) does not answer like Hugging Face") from exc

    def _pull_checkpoint(self, info: ModelInfo, files: Mapping[str, RepoSibling], path: Path | None) -> Path:
        """Return the folder of a checkpoint; download those of its files first that are missing."""
        self._refuse_options(path)
        small = choose_small_files(files)
        folder = {name: self._pull_file(info, files[name], None) for name in small}[CONFIG].parent
        for name in choose_weights(files, folder, self.repo.id):
            self._pull_file(info, files[name], None)
        return folder

    def _refuse_options(self, path: Path | None) -> None:
        """Raise SettingsError for what chooses a GGUF file of a repository that has none."""
        if self.repo.quant:
            raise SettingsError(
                f"{self.repo.id} has no GGUF model, so :{self.repo.quant} chooses nothing; leave it out, and use "
                "--requantize to quantize the model while it is loaded"
            )
        if path is not None:
            raise SettingsError(f"--model names one file, but {self.repo.id} has a checkpoint of several; leave it out")

    def find_cached(self, file: str | None, path: Path | None) -> Path:
        """Return the file from the cache without asking the hub; raise DownloadError if it is not there."""
        if path is not None and path.is_file():
            return path
        snapshot = self._snapshot()
        files = [item.relative_to(snapshot).as_posix() for item in snapshot.rglob("*") if item.is_file()]
        if not files or path is not None:
            name = f"{self.repo.id}{f' {file}' if file else ''}"
            place = path or self.cache
            raise DownloadError(f"{name} is not in the cache ({place}), and --offline or HF_HUB_OFFLINE is set")
        source = f"the cache of {self.repo.id}"
        if not file and has_checkpoint(files):
            self._refuse_options(None)
            choose_weights(files, snapshot, source)
            return snapshot
        chosen = find_file(files, file, source) if file else choose_model(files, self.repo.quant, source)
        return snapshot / find_parts(files, chosen, source)[0]

    def _pull_file(self, info: ModelInfo, sibling: RepoSibling, path: Path | None) -> Path:
        """Return one file; download it first if this version of it is missing."""
        try:
            return self._pull_version(info, sibling, path)
        except StatusError as exc:
            if exc.code == "GatedRepo" or exc.status in (401, 403):
                raise DownloadError(self._access_denied()) from exc
            raise

    def _pull_version(self, info: ModelInfo, sibling: RepoSibling, path: Path | None) -> Path:
        import httpx2
        from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache

        name, commit = sibling.rfilename, info.sha
        key = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id  # name of the content in the hub's cache
        source = Source(
            url=hf_hub_url(self.repo.id, name, revision=commit, endpoint=self.api.endpoint),
            headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            size=sibling.size,
        )
        if path is not None:
            return fetch_once(source, path, self.progress)
        cached = try_to_load_from_cache(self.repo.id, name, cache_dir=self.cache, revision=commit)
        if isinstance(cached, str):
            return Path(cached)

        log.info("downloading %s of %s", name, self.repo.id)
        if key and re.fullmatch("[0-9a-f]{40,64}", key):
            self._fetch_content(source, name, key)
        try:
            return Path(
                hf_hub_download(  # finds the content in the cache and links the file to it
                    self.repo.id,
                    name,
                    revision=self.repo.revision,
                    cache_dir=self.cache,
                    endpoint=self.api.endpoint,
                    **self.client,
                )
            )
        except (OSError, ValueError, httpx2.HTTPError) as exc:
            reason = " ".join(str(exc).split())[:300]
            raise DownloadError(f"{name} cannot be stored in the cache {self.cache}: {reason}") from exc

    def _fetch_content(self, source: Source, name: str, key: str) -> None:
        """Download the content to where the hub's client looks for it."""
        folder = _repo_folder(self.repo.id)
        # The client's own lock is not used: it removes its file, and then two processes can hold it on some systems.
        blob, lock = self.cache / folder / "blobs" / key, self.cache / ".locks" / folder / f"{key}{FETCH_LOCK_SUFFIX}"
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with Progress(name.rpartition("/")[2], self.progress) as bar, locked(lock, bar.report_waiting):
                if not blob.exists():
                    fetch(source, blob, bar)
        except OSError as exc:
            raise DownloadError(f"{name} cannot be stored in {self.cache}: {exc.strerror or exc}") from exc

    def _snapshot(self) -> Path:
        """Return the folder with the latest download of the revision."""
        folder = self.cache / _repo_folder(self.repo.id)
        try:
            commit = (folder / "refs" / self.repo.revision).read_text(encoding="utf-8").strip()
        except OSError:
            commit = self.repo.revision
        return folder / "snapshots" / commit

    def _raise_refusal(self, exc: Any) -> NoReturn:
        """Raise the DownloadError that explains an error status of the hub."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        repo, status = self.repo, exc.response.status_code
        if isinstance(exc, GatedRepoError) or status == 403:
            message = self._access_denied()
        elif isinstance(exc, RevisionNotFoundError):
            message = f"{repo.id} has no revision {repo.revision!r}"
        elif status == 401 and self.token and not isinstance(exc, RepositoryNotFoundError):
            message = f"{self.api.endpoint} rejects the token (from --hf-token, HF_TOKEN or `hf auth login`)"
        elif isinstance(exc, RepositoryNotFoundError) or status in (401, 404):
            message = (
                f"the repository {repo.id} does not exist at {self.api.endpoint}, or it is private"
                f"{self._similar_names()}; a private one needs a token (--hf-token, HF_TOKEN)"
            )
        else:
            raise StatusError(Source(url=f"{self.api.endpoint}/{repo.id}"), status, "") from exc
        raise DownloadError(message) from exc

    def _access_denied(self) -> str:
        repo = self.repo.id
        return (
            f"access to {repo} is denied: accept its licence at {self.api.endpoint}/{repo}, and use a token of that "
            "account (--hf-token, HF_TOKEN)"
        )

    def _similar_names(self) -> str:
        """Return repositories with similar names, for an error message."""
        owner, name = self.repo.id.split("/")
        names: list[str] = []
        with suppress(Exception):  # the hint is optional
            names += [model.id for model in self.api.list_models(author=owner, limit=100)]
            names += [model.id for model in self.api.list_models(search=name, limit=100)]
        near = get_close_matches(self.repo.id, names, n=3)
        return f" (did you mean {format_names(near)}?)" if near else ""


def _repo_folder(repo_id: str) -> str:
    """Return the folder of a repository in the hub's cache."""
    return f"models--{repo_id.replace('/', '--')}"
