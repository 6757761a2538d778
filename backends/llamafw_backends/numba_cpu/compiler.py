"""Compile kernels, or load them from the cache. Independent of what kernels compute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba

from llamafw_backends.numba_cpu import cache

OPTIONS = {"error_model": "numpy", "boundscheck": False}


def jit(function: Callable[..., Any]) -> Any:
    """Mark a function that kernels call. It is compiled into each kernel and cached with it."""
    return numba.njit(nogil=True, **OPTIONS)(function)


@dataclass
class KernelCompiler:
    """Compiles kernels: functions of integers that return an integer and can be called from C.

    Parameters
    ----------
    log : callable
        Called with a line of progress when something must be compiled, because that takes a while.
    """

    log: Callable[[str], None]
    seconds: float = 0.0  # spent so far
    compiled: list[str] = field(default_factory=list)  # names of kernels that were not in the cache

    def __post_init__(self) -> None:
        self._version = cache.version_folder()

    def __call__(self, name: str, n_arguments: int, function: Callable[..., int], *, isa: str = cache.ANY_ISA) -> Any:
        """Return a compiled function, with the attributes ``address`` and ``ctypes``.

        Parameters
        ----------
        name : str
            Name of the kernel, unique for each code.
        n_arguments : int
            Number of its int64 arguments.
        function : callable
            Its Python source.
        isa : str
            The instruction set that it is compiled for, if there is a kernel for each.
        """
        started = time.perf_counter()
        folder = cache.kernel_folder(self._version, isa, name)
        if not self.compiled and (folder is None or not any(folder.glob("*"))):
            self.log("compiling kernels for this processor; the first start takes up to a minute, later ones do not")

        try:
            kernel = _compile(n_arguments, function, folder)
        except OSError as error:  # a full disk, or a folder that another process removes
            self.log(f"compiled code cannot be cached in {folder}: {error}")
            kernel = _compile(n_arguments, function, None)

        seconds = time.perf_counter() - started
        self.seconds += seconds
        if not kernel.cache_hits:
            self.compiled.append(name)
            self.log(f"compiled {name} in {seconds:.1f} s")
        return kernel

    def remove_unused(self, isa: str) -> None:
        """Remove old code of other versions and instruction sets from the cache."""
        cache.remove_unused(self._version, isa)


def _compile(n_arguments: int, function: Callable[..., int], folder: Path | None) -> Any:
    """Compile a function, with its code cached in ``folder``; None: nowhere."""
    signature = numba.types.int64(*[numba.types.int64] * n_arguments)
    users_folder = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = str(folder or users_folder)  # numba reads it while it decorates the function
        return numba.cfunc(signature, cache=folder is not None, **OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = users_folder
