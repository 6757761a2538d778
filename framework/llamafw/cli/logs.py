"""Set up the log: where it goes (``--log-*``) and what its lines look like.

A message is always one line. It may contain text from clients, which must not look like another message.
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
from llamafw.server.request_id import request_id
from llamafw.settings import Settings

_COLORS = {logging.DEBUG: 90, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}
"""ANSI colour codes (SGR) by log level: grey, yellow, red."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that end a line, control a terminal or reverse the direction of text, and surrogates, which UTF-8 cannot
encode."""

_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def set_up_logging(settings: Settings) -> None:
    """Send the logs of llamafw and of libraries where the settings say."""
    logging.basicConfig(level=max(logging.WARNING, settings.log_level), handlers=make_handlers(settings))
    logging.getLogger("llamafw").setLevel(settings.log_level)


def make_handlers(settings: Settings) -> list[logging.Handler]:
    """Return the handlers for stderr and ``--log-file``, or with ``--log-disable`` one that writes nothing.

    Raises
    ------
    SettingsError
        The file cannot be written, or two flags cannot be used together.
    """
    if settings.log_disable:
        return [logging.NullHandler()]
    if settings.log_json and settings.log_colors:
        raise SettingsError("--log-json and --log-colors cannot be used together")

    colors = sys.stderr.isatty() if settings.log_colors is None else settings.log_colors
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(_make_formatter(settings, "%H:%M:%S", colors=colors))
    if settings.log_file is None:
        return [stderr]

    try:
        file = LogFile(Path(settings.log_file).expanduser(), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--log-file: {settings.log_file} cannot be written: {error.strerror or error}") from None
    file.setFormatter(_make_formatter(settings, "%Y-%m-%d %H:%M:%S"))
    return [stderr, file]


class LogFile(logging.FileHandler):
    """Writes lines to a file; says once on stderr if that fails, until it works again."""

    _has_failed = False

    def flush(self) -> None:
        """Write what is left in the buffer."""
        super().flush()
        self._has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Handle the error that is being handled; others than those of the disk are mistakes in the program."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            print(f"llamafw: --log-file: {self.baseFilename} cannot be written: {error.strerror}", file=sys.stderr)


def _make_formatter(settings: Settings, time_format: str, *, colors: bool = False) -> logging.Formatter:
    if settings.log_json:
        return JsonFormatter(prefix=settings.log_prefix, timestamps=settings.log_timestamps)
    line_format = (
        "%(asctime)s " * settings.log_timestamps + "%(levelname).1s %(name)s: " * settings.log_prefix + "%(message)s"
    )
    return (ColorFormatter if colors else TextFormatter)(line_format, time_format)


class TextFormatter(logging.Formatter):
    """Formats a message as one line, followed by the lines of a traceback, which are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of one record."""
        record.exc_text = None  # a traceback that another formatter cached here is not indented
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of the message."""
        return escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return a traceback, indented."""
        return _indent(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Return a stack, indented."""
        return _indent(stack_info)


class ColorFormatter(TextFormatter):
    """Formats like `TextFormatter`, in the colour of the log level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of one record."""
        text = super().format(record)
        color = _COLORS.get(record.levelno)
        return text if color is None else f"\x1b[{color}m{text}\x1b[0m"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line with a JSON object.

    Its fields are ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``, ``request_id`` if the message is about
    a request, ``exception`` (a traceback) if there is one, and those in the record's attribute ``fields``.
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


def escape(text: str) -> str:
    r"""Return a text as one line: line breaks and invisible characters are written as ``\n``, ``\x1b``, ``\u2028``."""
    return _UNSAFE.sub(_escape_character, text)


def _escape_character(match: re.Match[str]) -> str:
    char = match.group()
    return _ESCAPES.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")


def _indent(text: str) -> str:
    return "\n".join(f"    {escape(line)}" for line in text.split("\n"))
