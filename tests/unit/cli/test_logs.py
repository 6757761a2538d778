"""The log: where it goes, what its lines look like, what is left out."""
from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from llamafw.cli.logs import handlers
from llamafw.errors import SettingsError
from llamafw.settings import Settings


def lines(level: int = logging.INFO, **given: Any) -> list[str]:
    """Return what each handler makes of one message."""
    record = logging.LogRecord("llamafw.engine", level, "", 0, "some %s", ("words",), None)
    return [handler.format(record) for handler in handlers(Settings(**given))]


@pytest.mark.inventory("C-070", "C-071")
def test_what_stands_before_a_message() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d I llamafw.engine: some words", lines()[0])
    assert lines(log_timestamps=False) == ["I llamafw.engine: some words"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d some words", lines(log_prefix=False)[0])
    assert lines(log_prefix=False, log_timestamps=False) == ["some words"]


@pytest.mark.inventory("C-067")
def test_colors() -> None:
    bare = {"log_prefix": False, "log_timestamps": False}
    assert lines(logging.ERROR, log_colors=True, **bare) == ["\x1b[31msome words\x1b[0m"]
    assert lines(logging.WARNING, log_colors=True, **bare) == ["\x1b[33msome words\x1b[0m"]
    assert lines(log_colors=True, **bare) == lines(**bare) == ["some words"]


@pytest.mark.inventory("C-066", "C-067")
def test_a_file_gets_all_without_colors(tmp_path: Path) -> None:
    (path := tmp_path / "log").write_text("before\n")
    both = handlers(Settings(log_file=str(path), log_colors=True, log_timestamps=False))
    for handler in both:
        handler.handle(logging.LogRecord("llamafw", logging.ERROR, "", 0, "schlüssel", (), None))
        handler.close()
    assert path.read_text(encoding="utf-8") == "before\nE llamafw: schlüssel\n"
    assert len(both) == 2
    with pytest.raises(SettingsError, match="--log-file: .* cannot be written: "):
        handlers(Settings(log_file=str(tmp_path / "no" / "folder")))


@pytest.mark.inventory("C-065")
def test_no_log_at_all(tmp_path: Path) -> None:
    found = handlers(Settings(log_disable=True, log_file=str(tmp_path / "log")))
    assert [type(handler) for handler in found] == [logging.NullHandler]
    assert not (tmp_path / "log").exists()


@pytest.mark.inventory("C-069")
@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({}, logging.INFO),
        ({"verbose": True}, logging.DEBUG),
        ({"verbosity": 1}, logging.DEBUG),
        ({"verbosity": 99}, logging.DEBUG),
        ({"verbosity": -1}, logging.WARNING),
        ({"verbosity": -1, "verbose": True}, logging.DEBUG),
    ],
)
def test_how_much_is_logged(given: dict[str, Any], level: int) -> None:
    assert Settings(**given).log_level == level
