"""Derives the settings of models and graphs beside the first one from those of the server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llamafw.settings import CPU, GPU, LOG, PLUGINS, SERVER, Settings, options

_SHARED_GROUPS = (CPU, GPU, SERVER, PLUGINS, LOG)
_SHARED = (
    "backend",
    "offline",
    "check_tensors",
    "warmup",
    "mmap",
    "load_mode",
    "mlock",
    "threads",
    "batch_size",
    "ubatch_size",
)


def side_settings(settings: Settings, **own: object) -> Settings:
    """Return settings of a model beside the first one: those that are about the server and the machine.

    Parameters
    ----------
    settings : Settings
        The server's settings.
    **own
        The model's own settings. Others have their defaults.
    """
    shared = [field for field, opt in options().items() if opt.group in _SHARED_GROUPS or field in _SHARED]
    values = {field: getattr(settings, field) for field in shared}
    beside = {"embedding_model": None, "reranking_model": None}
    return Settings(plugin_tables=settings.plugin_tables, extra=settings.extra, **values | beside | own)


def prediction_settings(settings: Settings, **changes: Any) -> Settings:
    """Return the settings of the block for multi-token prediction: those of the model, except for its cache."""
    own: dict[str, Any] = {
        "cache_type_k": settings.spec_draft_type_k,
        "cache_type_v": settings.spec_draft_type_v,
        **draft_threads(settings),
    }
    return replace(settings, **own | changes)


def draft_threads(settings: Settings) -> dict[str, int]:
    """Return the numbers of threads of what drafters guess with."""
    one, batch = settings.spec_draft_threads, settings.spec_draft_threads_batch
    if batch is None:
        batch = settings.threads_batch if one is None else one
    return {"threads": settings.threads if one is None else one, "threads_batch": batch}
