"""Compiled code on disk, so that only the first start on a machine compiles.

Numba notices an edited function, another processor and another Numba, but not an edit in a module that emits IR.
The folder is therefore named after all sources of this package. NUMBA_CACHE_DIR moves it.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import platformdirs

OPTIONS = {"error_model": "numpy", "boundscheck": False}


def jit(function: Callable[..., Any]) -> Any:
    """Mark a function that kernels call. It is compiled into each kernel, and cached with it."""
    return numba.njit(nogil=True, **OPTIONS)(function)


@dataclass
class Compiler:
    """Compiles kernels: functions of integers that return an integer, callable from C.

    ``log`` is told once when something must be compiled, since that takes a while.
    """

    log: Callable[[str], None]
    seconds: float = 0.0  # spent so far
    compiled: list[str] = field(default_factory=list)  # the names of those that were not in the cache

    def __call__(self, name: str, n_arguments: int, function: Callable[..., int]) -> Any:
        """Return the compiled function, with ``.address`` and ``.ctypes``."""
        started = time.perf_counter()
        folder = cache_folder()
        if not self.compiled and (folder is None or not any(folder.iterdir())):
            self.log("compiling kernels for this processor; the first start takes up to a minute, later ones do not")
        signature = numba.types.int64(*[numba.types.int64] * n_arguments)
        users = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = str(folder or users)  # read when a function is decorated, which is now
            kernel = numba.cfunc(signature, cache=folder is not None, **OPTIONS)(function)
        finally:
            numba.config.CACHE_DIR = users
        took = time.perf_counter() - started
        self.seconds += took
        if not kernel.cache_hits:
            self.compiled.append(name)
            self.log(f"compiled {name} in {took:.1f} s")
        return kernel


@cache
def cache_folder() -> Path | None:
    """Return the folder for compiled code, made; None if there is nowhere to write."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    root = Path(numba.config.CACHE_DIR or platformdirs.user_cache_path("llamafw") / "numba")
    folder = root / f"llamafw-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None
