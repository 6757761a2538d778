"""Python's garbage collector runs rarely until the model is loaded, and as usual afterwards."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from llamafw.cli.main import main
from llamafw.cli.serve import RARE_COLLECTIONS


@pytest.fixture(autouse=True)
def keep_process_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafw.cli.serve.set_up_logging", lambda settings: None)  # pytest has set it up
    monkeypatch.setattr("sys.setswitchinterval", lambda seconds: None)  # it stays for other tests


def test_collections_are_rare_until_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, seen = gc.get_threshold(), []  # some versions of Python ignore the third threshold

    def load() -> str:
        seen.append(gc.get_threshold()[:2])
        return "model"

    def serve(settings: Any, plugins: Any, load: Callable[[], Any]) -> int:
        seen.append(gc.get_threshold()[:2])
        assert load() == "model"
        seen.append(gc.get_threshold()[:2])
        return 0

    monkeypatch.setattr("llamafw.cli.serve.prepare_model", lambda settings, plugins, log: load)
    monkeypatch.setattr("llamafw.server.run.serve", serve)
    assert main(["serve", "-m", "model.gguf"]) == 0
    assert seen == [RARE_COLLECTIONS[:2], RARE_COLLECTIONS[:2], usual[:2]]


def test_thresholds_that_a_plugin_sets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = gc.get_threshold()

    def prepare(settings: Any, plugins: Any, log: Any) -> Callable[[], str]:
        gc.set_threshold(1234, 7, 7)
        return lambda: "model"

    monkeypatch.setattr("llamafw.cli.serve.prepare_model", prepare)
    monkeypatch.setattr("llamafw.server.run.serve", lambda settings, plugins, load: len(load()))
    try:
        assert main(["serve", "-m", "model.gguf"]) == len("model")
        assert gc.get_threshold()[:2] == (1234, 7)
    finally:
        gc.set_threshold(*usual)


@pytest.mark.parametrize("first", [0, 700])
def test_thresholds_are_the_same_after_a_failure(first: int) -> None:
    """0 switches collections off."""
    usual = gc.get_threshold()
    gc.set_threshold(first, 11, 12)
    try:
        assert main(["serve", "-m", "/no/model.gguf"]) == 1
        assert gc.get_threshold()[:2] == (first, 11)
    finally:
        gc.set_threshold(*usual)
