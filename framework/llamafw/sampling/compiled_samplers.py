"""Compiles kernels of samplers, or loads their code, and finds where it is kept.

The code of a module is in ``llamafw-<version>/samplers/<module>`` below `code_root`, beside that of the Numba backend,
which removes old versions. ``<version>`` is a hash of all modules in the folder of the module, because kernels may call
functions of any of them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llamafw.code_cache import code_root, compile_c_function, use_folder
from llamafw.interfaces import SamplerPlugin


def code_folder(module: str, file: str) -> Path:
    """Return the folder of the code of a module; it may not exist yet."""
    import llvmlite
    import numba

    own, path = Path(__file__).parent, Path(file)
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in (*sorted(own.glob("*.py")), *(sorted(path.parent.glob("*.py")) if "." in module else [path])):
        with suppress(OSError):  # it was typed into a console
            digest.update(source.read_bytes())
    return code_root() / f"llamafw-{digest.hexdigest()[:16]}" / "samplers" / module.replace(".", "-")


def compile_stored(function: Callable[..., Any], signature: Any, module: str, file: str) -> Any:
    """Compile a function that C can call, or load its code.

    Its code is stored with that of a module, if that is possible. `compile_c_function` explains the parameters and the
    result.
    """
    folder = use_folder(code_folder(module, file))
    try:
        return compile_c_function(function, signature, folder)
    except OSError:  # a full disk, or a function without a file
        return compile_c_function(function, signature, None)


def plugin_folder(plugin: SamplerPlugin) -> Path | None:
    """Return the folder of the code of a sampler's module; None if another process could not import the sampler."""
    module = sys.modules.get(getattr(plugin, "__module__", ""))
    file = getattr(module, "__file__", None)
    if module is None or file is None or not isinstance(plugin, type):
        return None
    return code_folder(module.__name__, file)
