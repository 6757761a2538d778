"""Compiles functions with Numba, and keeps their code in a folder for later starts.

Numba's own setting of this folder is global. If one thread changed it, code that others compile meanwhile would get
into the wrong folder. Numba is imported when it is first needed. Independent of what is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def code_root() -> Path:
    """Return the folder of all compiled code: NUMBA_CACHE_DIR, or ``numba`` in the user's cache folder."""
    import numba
    import platformdirs

    return Path(numba.config.CACHE_DIR or platformdirs.user_cache_path("llamafw") / "numba")


def use_folder(folder: Path) -> Path | None:
    """Create ``folder`` for compiled code, mark it as used now, and return it; None if that fails.

    Another process may be removing it as unused.
    """
    for _ in range(3):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return folder
    return None


def compile_c_function(function: Callable[..., Any], signature: Any, folder: Path | None, **options: Any) -> Any:
    """Compile a function that C can call, or load its code from a folder.

    Parameters
    ----------
    function : callable
        The Python function.
    signature : object
        Its signature, made of Numba's types.
    folder : Path or None
        The folder. None: do not store the code.
    **options : object
        Options of ``numba.cfunc``.

    Returns
    -------
    numba.core.ccallback.CFunc
        Its ``cache_hits`` is 0 if it was compiled.

    Raises
    ------
    OSError
        The code cannot be stored there.
    """
    import numba
    from numba.core.ccallback import CFunc

    if folder is None:
        return numba.cfunc(signature, **options)(function)
    compiled: Any = CFunc(function, (signature.args, signature.return_type), locals={}, options=options)
    compiled._cache = _cache_in(folder, function)  # as `enable_caching` does with the global folder
    compiled.compile()
    return compiled


def _cache_in(folder: Path, function: Callable[..., Any]) -> Any:
    """Return Numba's cache of a function, in a folder."""
    from numba.core import caching
    from numba.core.runtime import rtsys

    class Locator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):  # type: ignore[misc]  # no types
        def __init__(self, py_func: Any, py_file: str) -> None:
            self._py_file, self._lineno = py_file, py_func.__code__.co_firstlineno

        def get_cache_path(self) -> str:
            return str(folder)

    class Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]  # no types
        _locator_classes = (Locator,)

    class FolderCache(caching.FunctionCache):  # type: ignore[misc]  # no types
        _impl_class = Implementation

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            """Return stored code, or None.

            Numba's method first registers everything that it can compile, which takes 0.2 s. Stored code only needs the
            runtime that counts references to memory. Compiling registers everything anyway.
            """
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)

    try:
        return FolderCache(function)
    except RuntimeError as error:  # the folder is not writable, or the function has no source file
        raise OSError(str(error)) from error
