"""``llamafw version``."""

from __future__ import annotations

import platform
from importlib.metadata import version

from llamafw.cli.parser import Parser
from llamafw.hookspecs import API_VERSION


def run(argv: list[str]) -> int:
    """Print the version of llamafw and of Python."""
    Parser("llamafw version", "Print the version.").parse(argv)
    print(text())
    return 0


def text() -> str:
    """Return the versions and the machine, in one line."""
    where = f"Python {platform.python_version()}, {platform.machine()} {platform.system()}"
    return f"llamafw {version('llamafw')}, API {API_VERSION} ({where})"
