"""Where the log goes and what its lines look like: ``--log-*``. It knows nothing of what is logged."""
from __future__ import annotations

import logging
import sys
from pathlib import Path

from llamafw.errors import SettingsError
from llamafw.settings import Settings

_COLORS = {logging.DEBUG: 90, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}
"""Of ANSI terminals (SGR), by severity: grey, yellow, red."""


def set_up_logging(settings: Settings) -> None:
    """Send our log, and uvicorn's, where the settings say."""
    logging.basicConfig(level=logging.WARNING, handlers=handlers(settings))
    logging.getLogger("llamafw").setLevel(settings.log_level)


def handlers(settings: Settings) -> list[logging.Handler]:
    """Return what writes the log: to stderr, and to ``--log-file``; one that writes nothing with ``--log-disable``."""
    if settings.log_disable:
        return [logging.NullHandler()]
    plain = ("%(asctime)s " * settings.log_timestamps + "%(levelname).1s %(name)s: " * settings.log_prefix
             + "%(message)s")  # fmt: skip
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter((_Colored if settings.log_colors else logging.Formatter)(plain, "%H:%M:%S"))
    if settings.log_file is None:
        return [stderr]
    try:
        file = logging.FileHandler(Path(settings.log_file).expanduser(), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--log-file: {settings.log_file} cannot be written: {error.strerror or error}") from None
    file.setFormatter(logging.Formatter(plain, "%Y-%m-%d %H:%M:%S"))
    return [stderr, file]


class _Colored(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        color = _COLORS.get(record.levelno)
        return text if color is None else f"\x1b[{color}m{text}\x1b[0m"
