"""Folders of downloaded models.

The functions only return paths; they do not create folders.
"""

from __future__ import annotations

import os
from pathlib import Path


def models_dir() -> Path:
    """Return the folder of the catalogue's models: ``models`` in ``$LLAMAFW_CACHE`` or the user's cache directory."""
    folder = os.environ.get("LLAMAFW_CACHE")
    if folder:
        return Path(folder).expanduser() / "models"
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("llamafw", appauthor=False)) / "models"


def downloads_dir() -> Path:
    """Return the folder of models from URLs: ``$LLAMA_CACHE``, or the folder of the catalogue's models."""
    folder = os.environ.get("LLAMA_CACHE")
    return Path(folder).expanduser() if folder else models_dir()


def hub_dir() -> Path:
    """Return the folder of models from Hugging Face: ``$LLAMA_CACHE``, or the cache of the hub's client."""
    folder = os.environ.get("LLAMA_CACHE")
    if folder:
        return Path(folder).expanduser()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
