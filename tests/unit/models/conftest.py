"""Fixtures: the path of a model file, an empty cache, and a local imitation of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.model_hub import ModelHub, running_hub


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def models_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder ``$LLAMA_CACHE``, which does not exist yet."""
    for name in list(os.environ):
        if name.startswith(("HF_", "LLAMA_ARG_")) or name.lower().endswith("proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model_hub(models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """Return a local hub that ``$HF_ENDPOINT`` names."""
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
