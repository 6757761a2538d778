"""Where the log goes and what its lines look like: ``--log-*``. It knows nothing of what is logged.

A message is always one line, whatever is in it: what clients send may be part of it, and must not look like another.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llamafw.errors import SettingsError
from llamafw.server.access import request_id
from llamafw.settings import Settings

_COLORS = {logging.DEBUG: 90, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}
"""Of ANSI terminals (SGR), by severity: grey, yellow, red."""

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What ends a line, moves the cursor, or turns the direction of text; and halves of pairs, which no file can hold."""

_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def set_up_logging(settings: Settings) -> None:
    """Send our log, and uvicorn's, where the settings say."""
    logging.basicConfig(level=logging.WARNING, handlers=handlers(settings))
    logging.getLogger("llamafw").setLevel(settings.log_level)


def handlers(settings: Settings) -> list[logging.Handler]:
    """Return what writes the log: to stderr, and to ``--log-file``; one that writes nothing with ``--log-disable``."""
    if settings.log_disable:
        return [logging.NullHandler()]
    if settings.log_json and settings.log_colors:
        raise SettingsError("--log-json and --log-colors exclude each other")
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(_formatter(settings, "%H:%M:%S", colors=settings.log_colors))
    if settings.log_file is None:
        return [stderr]
    try:
        file = logging.FileHandler(Path(settings.log_file).expanduser(), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--log-file: {settings.log_file} cannot be written: {error.strerror or error}") from None
    file.setFormatter(_formatter(settings, "%Y-%m-%d %H:%M:%S"))
    return [stderr, file]


def _formatter(settings: Settings, time: str, *, colors: bool = False) -> logging.Formatter:
    if settings.log_json:
        return JsonLines(prefix=settings.log_prefix, timestamps=settings.log_timestamps)
    plain = (
        "%(asctime)s " * settings.log_timestamps + "%(levelname).1s %(name)s: " * settings.log_prefix + "%(message)s"
    )
    return (Colored if colors else Text)(plain, time)


class Text(logging.Formatter):
    """A message is one line. Tracebacks follow it, indented: a line that is not begins a message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of one record."""
        record.exc_text = None  # what another formatter has left there is not indented
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of the message."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return a traceback, indented."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Return a stack, indented."""
        return _indented(stack_info)


class Colored(Text):
    """The same in the colour of the severity."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of one record."""
        text = super().format(record)
        color = _COLORS.get(record.levelno)
        return text if color is None else f"\x1b[{color}m{text}\x1b[0m"


class JsonLines(logging.Formatter):
    """One object a line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``, ``request_id`` if it is about
    one, ``exception`` (a traceback) if there is one, and what the record has as ``fields``.
    """

    def __init__(self, *, prefix: bool = True, timestamps: bool = True) -> None:
        super().__init__()
        self._prefix, self._timestamps = prefix, timestamps

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        entry: dict[str, Any] = {}
        if self._timestamps:
            entry["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        if self._prefix:
            entry |= {"level": record.levelname.lower(), "logger": record.name}
        entry["message"] = record.getMessage()
        if (id := request_id()) != "-":
            entry["request_id"] = id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        for name, value in getattr(record, "fields", {}).items():
            entry.setdefault(name, value)
        return json.dumps(entry, default=str)


def escaped(text: str) -> str:
    r"""Return a text as one line: line ends and what else is not seen as ``\n``, ``\x1b``, ``\u2028``."""
    return _UNSEEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    char = found.group()
    return _ESCAPES.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")


def _indented(text: str) -> str:
    return "\n".join(f"    {escaped(line)}" for line in text.split("\n"))
