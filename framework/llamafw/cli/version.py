"""``llamafw version``."""
from __future__ import annotations

import platform
from importlib.metadata import version

from llamafw.cli.parser import Parser


def run(argv: list[str]) -> int:
    """Print the version of llamafw and of Python."""
    Parser("llamafw version", "Print the version.").parse(argv)
    where = f"Python {platform.python_version()}, {platform.machine()} {platform.system()}"
    print(f"llamafw {version('llamafw')} ({where})")
    return 0
