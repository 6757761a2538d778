"""``llamafw version``: print the version."""

from __future__ import annotations

import platform
from importlib.metadata import version

from llamafw.cli.parser import CommandParser
from llamafw.hookspecs import API_VERSION


def run(argv: list[str]) -> int:
    """Print the versions of llamafw, its plugin API and Python."""
    CommandParser("llamafw version", "Print the version.", example="llamafw version").parse(argv)
    print(version_line())
    return 0


def version_line() -> str:
    """Return the versions and the platform in one line."""
    where = f"Python {platform.python_version()}, {platform.machine()} {platform.system()}"
    return f"llamafw {version('llamafw')}, API {API_VERSION} ({where})"
