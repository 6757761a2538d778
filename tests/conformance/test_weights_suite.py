"""The suite for weight sources names the rule that a source breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamafw import ModelError
from llamafw.testing.conformance import WeightsConformance
from support.conformance import assert_fails, suite


def weights(open_model: Any, write: Any = None) -> Any:
    return suite(WeightsConformance, lambda path, settings: open_model(path), write=write)


def test_opening_other_files_is_reported(tmp_path: Path, tiny_model: Path) -> None:
    made = weights(lambda path: object())
    assert_fails(made.test_other_files_are_left_alone, "which is not of its format", tmp_path, tiny_model)


def test_other_exceptions_for_damaged_files_are_reported(tmp_path: Path, tiny_model: Path) -> None:
    def open_model(path: Path) -> None:
        (path / "model").read_text().splitlines()[3]

    def write(self: Any, folder: Path, gguf: Path) -> Path:
        (folder / "model").write_text("a\nb\nc\nd")
        return folder

    made = weights(open_model, write)
    message = "model is cut in half: it raises IndexError"
    assert_fails(made.test_damaged_files_are_a_model_error, message, tmp_path, tiny_model)


def test_model_errors_are_allowed(tmp_path: Path) -> None:
    def open_model(path: Path) -> None:
        raise ModelError("damaged")

    weights(open_model).check_damaged(tmp_path, "")
