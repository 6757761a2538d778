"""A place for a model's file; a local hub of models, and caches of its own for every test that asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.modelhub import ModelHub, serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def models_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$LLAMA_CACHE; not there yet."""
    for name in list(os.environ):
        if name.startswith(("HF_", "LLAMA_ARG_")) or name.lower().endswith("proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model_hub(models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
