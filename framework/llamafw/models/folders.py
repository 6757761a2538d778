"""Where fetched models lie. It makes no folders."""

from __future__ import annotations

import os
from pathlib import Path


def models_dir() -> Path:
    """Return where the catalogue's models lie: ``models`` in ``$LLAMAFW_CACHE``, or else in the user's cache."""
    given = os.environ.get("LLAMAFW_CACHE")
    if given:
        return Path(given).expanduser() / "models"
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("llamafw", appauthor=False)) / "models"


def downloads_dir() -> Path:
    """Return where models from addresses lie: ``$LLAMA_CACHE``, or else where the catalogue's do."""
    given = os.environ.get("LLAMA_CACHE")
    return Path(given).expanduser() if given else models_dir()


def hub_dir() -> Path:
    """Return where models from Hugging Face lie: ``$LLAMA_CACHE``, or else where the hub's client keeps its files."""
    given = os.environ.get("LLAMA_CACHE")
    if given:
        return Path(given).expanduser()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
