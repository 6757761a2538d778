"""Python's garbage collector runs rarely until the model is loaded, and as usual afterwards."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from llamafw.cli.main import main
from llamafw.cli.serve import RARE_COLLECTIONS


@pytest.fixture(autouse=True)
def no_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafw.cli.serve.set_up_logging", lambda settings: None)  # pytest has set it up


def test_collections_are_rare_until_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, seen = gc.get_threshold(), []

    def load() -> str:
        seen.append(gc.get_threshold())
        return "model"

    def serve(settings: Any, plugins: Any, load: Callable[[], Any]) -> int:
        seen.append(gc.get_threshold())
        assert load() == "model"
        seen.append(gc.get_threshold())
        return 0

    monkeypatch.setattr("llamafw.cli.serve.prepare_model", lambda settings, plugins, log: load)
    monkeypatch.setattr("llamafw.server.run.serve", serve)
    assert main(["serve", "-m", "model.gguf"]) == 0
    assert seen == [RARE_COLLECTIONS, RARE_COLLECTIONS, usual]


def test_collections_are_usual_after_a_failure() -> None:
    usual = gc.get_threshold()
    assert main(["serve", "-m", "/no/model.gguf"]) == 1
    assert gc.get_threshold() == usual
