"""Compile kernels, or load them from the cache.

Independent of what kernels compute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba

from llamafw import compile_c_function
from llamafw_backends.numba_cpu import cache

OPTIONS = {"error_model": "numpy", "boundscheck": False}

Kernels = dict[tuple[Path, str, str], Any]
"""Compiled kernels by the folder of their version, instruction set and name."""

LOADED: Kernels = {}
"""The kernels of all backends in this process.

LLVM cannot free code. If a backend that is loaded again loaded its kernels again, each time would take memory.
"""


def jit(function: Callable[..., Any]) -> Any:
    """Mark a function that kernels call.

    It is compiled into each kernel and cached with it.
    """
    return numba.njit(nogil=True, **OPTIONS)(function)


@dataclass
class KernelCompiler:
    """Compiles kernels: functions of integers that return an integer and can be called from C.

    Parameters
    ----------
    log : callable
        Called with a line of progress when a kernel must be compiled, which takes seconds.
    kernels : dict
        The kernels that are in memory; those that are loaded are added. By default, it is empty.
    """

    log: Callable[[str], None]
    kernels: Kernels = field(default_factory=dict)
    seconds: float = 0.0  # spent so far, for compiling and for loading compiled code
    compiled: list[str] = field(default_factory=list)  # names of kernels that were not in the cache

    def __post_init__(self) -> None:
        self._version = cache.version_folder()

    def __call__(
        self,
        name: str,
        n_arguments: int,
        function: Callable[..., int | None],
        *,
        isa: str = cache.ANY_ISA,
        has_result: bool = True,
    ) -> Any:
        """Compile a kernel, or load its code from the cache; a kernel of the same name is returned as it is.

        Parameters
        ----------
        name : str
            Name of the kernel, different for each variant of its code.
        n_arguments : int
            Number of its int64 arguments.
        function : callable
            The Python function to compile.
        isa : str
            Name of the instruction set, for a kernel that is different for each of them.
        has_result : bool
            Whether it returns an int64.

        Returns
        -------
        numba.core.ccallback.CFunc
            The kernel, which lives as long as ``kernels``. Other kernels call its ``address``, Python its ``ctypes``.
        """
        key = self._version, isa, name
        if key not in self.kernels:
            result = numba.types.int64 if has_result else numba.types.void
            signature = result(*[numba.types.int64] * n_arguments)
            kernel = self._load(name, signature, function, isa)
            self.kernels.setdefault(key, kernel)  # another thread may have loaded it meanwhile
        return self.kernels[key]

    def _load(self, name: str, signature: Any, function: Callable[..., int | None], isa: str) -> Any:
        """Compile a kernel, or load its code from the cache."""
        started = time.perf_counter()
        folder = cache.kernel_folder(self._version, isa, name)
        is_stored = folder is not None and any(folder.glob("*"))
        if not is_stored:
            self._announce(name, folder)

        try:
            kernel = compile_c_function(function, signature, folder, **OPTIONS)
        except OSError as error:  # a full disk, or another process removed the folder
            self.log(f"compiled code cannot be stored in {folder}: {error}")
            kernel = compile_c_function(function, signature, None, **OPTIONS)

        seconds = time.perf_counter() - started
        self.seconds += seconds
        if not kernel.cache_hits:
            self.compiled.append(name)
            if is_stored:  # for another processor, for example
                self.log(f"compiled {name} in {seconds:.1f} s")
        return kernel

    def _announce(self, name: str, folder: Path | None) -> None:
        """Log that a kernel is compiled, before it is: some take many seconds."""
        if not self.compiled:
            self.log("compiling kernels for this processor; the first start takes up to a minute, later ones do not")
            if folder is None:
                self.log(f"compiled code cannot be stored in {self._version}; set NUMBA_CACHE_DIR to a writable folder")
        self.log(f"compiling kernel {len(self.compiled) + 1}: {name}")

    def remove_unused(self, isa: str) -> None:
        """Remove old code of other versions and instruction sets from the cache."""
        cache.remove_unused(self._version, isa)
