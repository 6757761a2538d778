"""Finds the installed packages that have ONNX Runtime, and says how to replace them.

`onnxruntime`, `onnxruntime-gpu` and others write the same folder: one that is installed beside another overwrites a
part of it, and the provider of the other one is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions

FOLDER = "onnxruntime"


@cache
def find_packages() -> tuple[str, ...]:
    """Return the names of the installed packages that write the folder, in alphabetical order."""
    return tuple(sorted(set(packages_distributions().get(FOLDER, ()))))


def install_commands(wanted: str, unwanted: Iterable[str]) -> str:
    """Return the commands that install a package instead of others, for a sentence in one line, as logs need it.

    Parameters
    ----------
    wanted : str
        What pip installs, such as ``llamafw[cuda]``.
    unwanted : iterable of str
        The packages that must be removed first.
    """
    names = " ".join(unwanted)
    first = f"`pip uninstall -y {names}`, then " if names else ""
    return f"{first}`pip install '{wanted}'`"
