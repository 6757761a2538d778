"""The log: where it goes, what its lines look like, what is left out."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from llamafw.cli.logs import handlers
from llamafw.errors import SettingsError
from llamafw.server.access import current
from llamafw.settings import Settings


def lines(level: int = logging.INFO, **given: Any) -> list[str]:
    """Return what each handler makes of one message."""
    record = logging.LogRecord("llamafw.engine", level, "", 0, "some %s", ("words",), None)
    return [handler.format(record) for handler in handlers(Settings(**given))]


def one(message: str, error: BaseException | None = None, **given: Any) -> str:
    """Return what the log on stderr makes of a message, and of an error raised beside it."""
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("llamafw", logging.ERROR, "", 0, "said %s", (message,), info)
    record.exc_text = "what\nanother handler made of it"
    return handlers(Settings(log_timestamps=False, **given))[0].format(record)


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


@generated(st.text(st.characters()))
def test_a_message_is_one_line_whatever_it_holds(message: str) -> None:
    text = one(message)
    assert text.splitlines() == [text]
    text.encode()
    entry = json.loads(line := one(message, log_json=True))
    assert line.splitlines() == [line]
    assert line.isascii()
    assert entry["message"] == f"said {message}"


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ("a\nI llamafw: forged", r"a\nI llamafw: forged"),
        ("\r\x1b[2K\x9b", r"\r\x1b[2K\x9b"),
        ("\u2028\u202e\t\udc80", r"\u2028\u202e\t\udc80"),
        ("schlüssel ❤ 日本", "schlüssel ❤ 日本"),
    ],
)
def test_what_cannot_be_seen_is_written_out(message: str, seen: str) -> None:
    assert one(message) == f"E llamafw: said {seen}"


def test_a_traceback_is_indented_and_forges_nothing() -> None:
    try:
        raise ValueError("first\nE llamafw: second\x1b[2J")
    except ValueError as error:
        first, *rest = one("it", error).split("\n")
        entry = json.loads(one("it", error, log_json=True))
        both = one("it", error, log_colors=True)
    assert first == "E llamafw: said it"
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: first", r"    E llamafw: second\x1b[2J"]
    assert all(line.startswith("    ") for line in rest)
    assert entry["exception"].endswith("ValueError: first\nE llamafw: second\x1b[2J")
    assert both == f"\x1b[31m{first}\n" + "\n".join(rest) + "\x1b[0m"
    assert "another handler" not in first + "".join(rest)


def test_json_lines() -> None:
    record = logging.LogRecord("llamafw.access", logging.WARNING, "", 0, "%d", (5,), None)
    record.fields = {"status": 200, "path": Path("a"), "message": "ours wins"}
    (handler,) = handlers(Settings(log_json=True))
    token = current.set("abc")
    try:
        entry = json.loads(handler.format(record))
    finally:
        current.reset(token)
    time = datetime.fromisoformat(entry.pop("time"))
    assert abs((time - datetime.fromtimestamp(record.created, UTC)).total_seconds()) < 0.002
    assert entry == {
        "level": "warning",
        "logger": "llamafw.access",
        "message": "5",
        "request_id": "abc",
        "status": 200,
        "path": "a",
    }
    (bare,) = handlers(Settings(log_json=True, log_prefix=False, log_timestamps=False))
    del record.fields
    assert json.loads(bare.format(record)) == {"message": "5"}
    with pytest.raises(SettingsError, match="--log-json and --log-colors exclude each other"):
        handlers(Settings(log_json=True, log_colors=True))


def test_json_lines_go_to_the_file_too(tmp_path: Path) -> None:
    both = handlers(Settings(log_json=True, log_file=str(tmp_path / "log")))
    try:
        raise OSError("no")
    except OSError:
        record = logging.LogRecord("llamafw", logging.ERROR, "", 0, "it", (), sys.exc_info())
    for handler in both:
        handler.handle(record)
        handler.close()
    (entry,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert entry["exception"].startswith("Traceback")


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
