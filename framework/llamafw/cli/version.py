"""``llamafw version``: print the version."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import psutil

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


def devices_table() -> str:
    """Return the devices that a model can run on."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    memory = psutil.virtual_memory()
    name = platform.processor() or platform.machine()
    sizes = f"{memory.total >> 20} MiB, {memory.available >> 20} MiB free"
    return f"Available devices:\n  CPU: {name}, {cores} cores ({sizes})"
