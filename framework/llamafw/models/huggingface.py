"""Models from Hugging Face (``--hf-repo``), kept in the hub's own cache, where its other tools find them too.

The hub's client says what is in a repository and lays the cache out; the bytes come through `llamafw.models.fetch`,
which resumes an interrupted download and verifies it.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llamafw.errors import DownloadError, SettingsError
from llamafw.models import choose
from llamafw.models.fetch import WAY_OUT, Source, StatusError, UnreachableError, explain, fetch
from llamafw.models.folders import hub_dir
from llamafw.models.lock import locked
from llamafw.models.progress import Progress
from llamafw.models.url import fetch_once

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

TIMEOUT = 10  # seconds that the hub gets to say what is in a repository
DEFAULT_REVISION = "main"
FETCH_LOCK_SUFFIX = ".fetch.lock"
"""Ends the name of the lock file of each content that was fetched here; `llamafw.models.downloads` knows them by it."""

log = logging.getLogger("llamafw.models")


@dataclass(frozen=True, slots=True)
class Repo:
    """What ``--hf-repo`` names."""

    id: str  # USER/REPO
    revision: str  # branch, tag or commit
    quant: str | None

    @classmethod
    def parse(cls, text: str) -> Repo:
        """Return what USER/REPO[@REVISION][:QUANT] says."""
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([^:@]+))?(?::([\w.-]+))?", text)
        if not match:
            raise SettingsError(f"--hf-repo: {text!r} does not look like USER/REPO[@REVISION][:QUANT]")
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
    """Return a model of a repository (of one in parts the first), fetched before if it is not there or has changed.

    Parameters
    ----------
    text : str
        USER/REPO[@REVISION][:QUANT].
    file : str, optional
        The file's path in the repository; by default `llamafw.models.choose.choose` chooses.
    path : Path, optional
        Where to keep it; by default in the hub's cache, or in ``$LLAMA_CACHE`` as in that.
    token : str, optional
        By default the one that the hub's client has stored, if any.
    offline : bool
        Do without the network; so does HF_HUB_OFFLINE=1.
    progress : bool
        Show on stderr what is going on.

    Raises
    ------
    SettingsError
        ``text`` makes no sense, or names a quantization beside a file.
    DownloadError
        The model cannot be found, fetched, verified or stored; the message says what to do.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the client is imported
    repo = Repo.parse(text)
    if repo.quant and file:
        raise SettingsError(f"--hf-repo {text} and --hf-file {file} both name a file; leave :{repo.quant} out")
    from huggingface_hub import is_offline_mode

    hub = Hub(repo, token, progress)
    if offline or is_offline_mode():
        return hub.kept(file, path)
    try:
        return hub.current(file, path)
    except (UnreachableError, StatusError) as exc:
        with suppress(DownloadError):
            found = hub.kept(file, path)
            log.warning("%s; the file in the cache is used", exc)
            return found
        raise


class Hub:
    """One repository on the hub, and in the cache."""

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

    def current(self, file: str | None, path: Path | None) -> Path:
        """Return the file as the hub has it now, fetched first if that is not there."""
        info = self.info()
        files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        names, where = list(files), self.repo.id
        chosen = choose.find(names, file, where) if file else choose.choose(names, self.repo.quant, where)
        parts = choose.all_parts(names, chosen, where)
        if path is not None and len(parts) > 1:
            raise SettingsError(f"--model names one file, but {chosen} is the first of {len(parts)}; leave it out")
        return [self.pull(info, files[part], path) for part in parts][0]

    def info(self) -> ModelInfo:
        """Ask the hub what is in the repository: names, sizes and checksums."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return self.api.model_info(self.repo.id, revision=self.repo.revision, files_metadata=True, timeout=TIMEOUT)
        except HfHubHTTPError as exc:
            self._refused(exc)
        except (httpx2.HTTPError, httpx2.InvalidURL, ConnectionError) as exc:
            raise UnreachableError(
                f"{self.repo.id} cannot be fetched from {self.api.endpoint}: {explain(exc)}; {WAY_OUT}"
            ) from exc
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise DownloadError(f"{self.api.endpoint} does not answer like a hub of models (HF_ENDPOINT)") from exc

    def pull(self, info: ModelInfo, sibling: RepoSibling, path: Path | None) -> Path:
        """Return the file, fetched first if this version of it is not there."""
        try:
            return self._pull(info, sibling, path)
        except StatusError as exc:
            if exc.code == "GatedRepo" or exc.status in (401, 403):
                raise DownloadError(self._gated()) from exc
            raise

    def kept(self, file: str | None, path: Path | None) -> Path:
        """Return the file without asking the hub."""
        if path is not None and path.is_file():
            return path
        snapshot = self._snapshot()
        files = [found.relative_to(snapshot).as_posix() for found in snapshot.rglob("*") if found.is_file()]
        if not files or path is not None:
            name = f"{self.repo.id}{f' {file}' if file else ''}"
            raise DownloadError(f"{name} is not in the cache ({path or self.cache}), and --offline forbids to fetch it")
        where = f"the cache of {self.repo.id}"
        chosen = choose.find(files, file, where) if file else choose.choose(files, self.repo.quant, where)
        return snapshot / choose.all_parts(files, chosen, where)[0]

    def _pull(self, info: ModelInfo, sibling: RepoSibling, path: Path | None) -> Path:
        import httpx2
        from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache

        name, commit = sibling.rfilename, info.sha
        key = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id  # what the hub's cache calls the file's content
        source = Source(
            url=hf_hub_url(self.repo.id, name, revision=commit, endpoint=self.api.endpoint),
            headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            size=sibling.size,
        )
        if path is not None:
            return fetch_once(source, path, self.progress)
        found = try_to_load_from_cache(self.repo.id, name, cache_dir=self.cache, revision=commit)
        if isinstance(found, str):
            return Path(found)
        log.info("fetching %s of %s", name, self.repo.id)
        if key and re.fullmatch("[0-9a-f]{40,64}", key):
            self._fetch(source, name, key)
        try:
            return Path(
                hf_hub_download(  # finds the content, and gives it its name in the cache
                    self.repo.id,
                    name,
                    revision=self.repo.revision,
                    cache_dir=self.cache,
                    endpoint=self.api.endpoint,
                    **self.client,
                )
            )
        except (OSError, ValueError, httpx2.HTTPError) as exc:
            said = " ".join(str(exc).split())[:300]
            raise DownloadError(f"{name} cannot be put into the cache {self.cache}: {said}") from exc

    def _fetch(self, source: Source, name: str, key: str) -> None:
        """Put the content where the hub's client looks for it."""
        folder = _repo_folder(self.repo.id)
        # Not the lock of the hub's client: that removes its file, which some systems then let two processes lock.
        blob, lock = self.cache / folder / "blobs" / key, self.cache / ".locks" / folder / f"{key}{FETCH_LOCK_SUFFIX}"
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with Progress(name.rpartition("/")[2], self.progress) as bar, locked(lock, bar.waiting):
                if not blob.exists():
                    fetch(source, blob, bar)
        except OSError as exc:
            raise DownloadError(f"{name} cannot be stored in {self.cache}: {exc.strerror or exc}") from exc

    def _snapshot(self) -> Path:
        """Return the folder of the revision as it was fetched last."""
        folder = self.cache / _repo_folder(self.repo.id)
        try:
            commit = (folder / "refs" / self.repo.revision).read_text(encoding="utf-8").strip()
        except OSError:
            commit = self.repo.revision
        return folder / "snapshots" / commit

    def _refused(self, exc: Any) -> NoReturn:
        """Raise what the hub's refusal means."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        repo, status = self.repo, exc.response.status_code
        if isinstance(exc, GatedRepoError) or status == 403:
            message = self._gated()
        elif isinstance(exc, RevisionNotFoundError):
            message = f"{repo.id} has no revision {repo.revision!r}"
        elif status == 401 and self.token and not isinstance(exc, RepositoryNotFoundError):
            message = f"{self.api.endpoint} does not know the token (from --hf-token, HF_TOKEN or `hf auth login`)"
        elif isinstance(exc, RepositoryNotFoundError) or status in (401, 404):
            message = (
                f"there is no repository {repo.id} at {self.api.endpoint}, or it is private{self._near()}; for "
                "a private one pass a token (--hf-token, HF_TOKEN)"
            )
        else:
            raise StatusError(Source(url=f"{self.api.endpoint}/{repo.id}"), status, "") from exc
        raise DownloadError(message) from exc

    def _gated(self) -> str:
        repo = self.repo.id
        return (
            f"access to {repo} is refused: accept its licence at {self.api.endpoint}/{repo}, and pass a token of that "
            "account (--hf-token, HF_TOKEN)"
        )

    def _near(self) -> str:
        """Return repositories of nearly that name, for an error message."""
        owner, name = self.repo.id.split("/")
        names: list[str] = []
        with suppress(Exception):  # this is for a hint only, whatever fails
            names += [model.id for model in self.api.list_models(author=owner, limit=100)]
            names += [model.id for model in self.api.list_models(search=name, limit=100)]
        near = get_close_matches(self.repo.id, names, n=3)
        return f" (did you mean {choose.listed(near)}?)" if near else ""


def _repo_folder(repo_id: str) -> str:
    """Return the folder of a repository in the hub's cache."""
    return f"models--{repo_id.replace('/', '--')}"
