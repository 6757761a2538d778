"""The log: where it goes and what its lines look like."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from llamafw.cli.logs import LogFile, make_handlers
from llamafw.errors import SettingsError
from llamafw.server.request_id import current
from llamafw.settings import Settings


def format_words(level: int = logging.INFO, **settings: Any) -> list[str]:
    """Return the message "some words" as each handler formats it."""
    record = logging.LogRecord("llamafw.engine", level, "", 0, "some %s", ("words",), None)
    return [handler.format(record) for handler in make_handlers(Settings(**settings))]


def format_error(message: str, error: BaseException | None = None, **settings: Any) -> str:
    """Return a message, with an exception if there is one, as it is written to stderr."""
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("llamafw", logging.ERROR, "", 0, "said %s", (message,), info)
    record.exc_text = "cached by\nanother formatter"
    return make_handlers(Settings(log_timestamps=False, **settings))[0].format(record)


@pytest.mark.inventory("C-070", "C-071")
def test_messages_are_prefixed_with_time_level_and_logger() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d I llamafw.engine: some words", format_words()[0])
    assert format_words(log_timestamps=False) == ["I llamafw.engine: some words"]
    assert re.fullmatch(r"\d\d:\d\d:\d\d some words", format_words(log_prefix=False)[0])
    assert format_words(log_prefix=False, log_timestamps=False) == ["some words"]


@pytest.mark.inventory("C-067")
def test_colors_follow_the_log_level() -> None:
    bare = {"log_prefix": False, "log_timestamps": False}
    assert format_words(logging.ERROR, log_colors=True, **bare) == ["\x1b[31msome words\x1b[0m"]
    assert format_words(logging.WARNING, log_colors=True, **bare) == ["\x1b[33msome words\x1b[0m"]
    assert format_words(log_colors=True, **bare) == format_words(**bare) == ["some words"]


@pytest.mark.inventory("C-066", "C-067")
def test_the_log_file_is_appended_to_without_colors(tmp_path: Path) -> None:
    (path := tmp_path / "log").write_text("before\n")
    both = make_handlers(Settings(log_file=str(path), log_colors=True, log_timestamps=False))
    for handler in both:
        handler.handle(logging.LogRecord("llamafw", logging.ERROR, "", 0, "schlüssel", (), None))
        handler.close()
    assert path.read_text(encoding="utf-8") == "before\nE llamafw: schlüssel\n"
    assert len(both) == 2
    with pytest.raises(SettingsError, match="--log-file: .* cannot be written: "):
        make_handlers(Settings(log_file=str(tmp_path / "no" / "folder")))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that behaves like one on a full disk")
def test_full_disk_of_the_log_file_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = (one for one in make_handlers(Settings(log_file="/dev/full")) if isinstance(one, LogFile))
    for _ in range(3):
        file.handle(logging.LogRecord("llamafw", logging.INFO, "", 0, "hello", (), None))
    with suppress(OSError):
        file.close()
    assert capsys.readouterr().err == "llamafw: --log-file: /dev/full cannot be written: No space left on device\n"


@pytest.mark.inventory("C-065")
def test_log_disable_writes_nothing(tmp_path: Path) -> None:
    handlers = make_handlers(Settings(log_disable=True, log_file=str(tmp_path / "log")))
    assert [type(handler) for handler in handlers] == [logging.NullHandler]
    assert not (tmp_path / "log").exists()


@generated(st.text(st.characters()))
def test_a_message_is_always_one_line(message: str) -> None:
    text = format_error(message)
    assert text.splitlines() == [text]
    text.encode()
    entry = json.loads(line := format_error(message, log_json=True))
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
def test_invisible_characters_are_escaped(message: str, seen: str) -> None:
    assert format_error(message) == f"E llamafw: said {seen}"


def test_a_traceback_is_indented_and_escaped() -> None:
    try:
        raise ValueError("first\nE llamafw: second\x1b[2J")
    except ValueError as error:
        first, *rest = format_error("it", error).split("\n")
        entry = json.loads(format_error("it", error, log_json=True))
        colored = format_error("it", error, log_colors=True)
    assert first == "E llamafw: said it"
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: first", r"    E llamafw: second\x1b[2J"]
    assert all(line.startswith("    ") for line in rest)
    assert entry["exception"].endswith("ValueError: first\nE llamafw: second\x1b[2J")
    assert colored == f"\x1b[31m{first}\n" + "\n".join(rest) + "\x1b[0m"
    assert "another formatter" not in first + "".join(rest)


def test_json_lines_have_all_fields_of_a_record() -> None:
    record = logging.LogRecord("llamafw.access", logging.WARNING, "", 0, "%d", (5,), None)
    vars(record)["fields"] = {"status": 200, "path": Path("a"), "message": "not this one"}
    (handler,) = make_handlers(Settings(log_json=True))
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
    (bare,) = make_handlers(Settings(log_json=True, log_prefix=False, log_timestamps=False))
    del vars(record)["fields"]
    assert json.loads(bare.format(record)) == {"message": "5"}
    with pytest.raises(SettingsError, match="--log-json and --log-colors cannot be used together"):
        make_handlers(Settings(log_json=True, log_colors=True))


def test_json_lines_are_written_to_the_log_file(tmp_path: Path) -> None:
    both = make_handlers(Settings(log_json=True, log_file=str(tmp_path / "log")))
    try:
        raise OSError("no")
    except OSError:
        record = logging.LogRecord("llamafw", logging.ERROR, "", 0, "it", (), sys.exc_info())
    for handler in both:
        handler.handle(record)
        handler.close()
    (entry,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert entry["exception"].startswith("Traceback")
