"""Find the folders of compiled code, and remove code that is no longer used.

Stored code makes later starts fast. It is kept in ``llamafw-<version>/<instruction set>/<kernel>`` below the user's
cache folder, or below the folder in NUMBA_CACHE_DIR. Numba notices changes of the kernel's own source file, of the
processor and of Numba itself, but not of the other modules that emit code; therefore ``<version>`` is a hash of all
sources of this package.
"""

from __future__ import annotations

import hashlib
import marshal
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import llvmlite
import numba

from llamafw import code_root, use_folder

ANY_ISA = "any"  # folder of kernels that are the same for every instruction set
PLUGIN_KERNELS = ("operator-", "plugin-format-")  # folders of kernels of plugins, whose code may change with the plugin
MAX_AGE = 30 * 24 * 3600  # seconds since its last use after which code may be removed
_VERSION_FOLDER = re.compile(r"llamafw-[0-9a-f]{16}")


def hash_sources(package: Path) -> str:
    """Return a hash of all sources in a folder, and of the versions of Numba and LLVM."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_VERSION = hash_sources(Path(__file__).parent)
"""Computed when the package is imported: a server must not store its code as that of a version installed later."""


def version_folder() -> Path:
    """Return the folder of this version's code.

    It may not exist yet.
    """
    return code_root() / f"llamafw-{_VERSION}"


def plugin_source(function: Callable[..., object]) -> bytes:
    """Return the source of a function's module, and of all modules of its package: code that it may call."""
    try:
        return _read_sources(Path(function.__code__.co_filename), function.__module__)
    except OSError:  # it was typed into a console
        return marshal.dumps(function.__code__)


def class_source(kind: type) -> bytes:
    """Return the source of a class's module, and of all modules of its package; nothing if there is no file."""
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return _read_sources(Path(path), kind.__module__) if path else b""


def _read_sources(path: Path, module: str) -> bytes:
    package, *names = module.split(".")
    folder = next((parent for parent in path.parents if parent.name == package), None) if names else None
    return b"".join(one.read_bytes() for one in (sorted(folder.rglob("*.py")) if folder else [path]))


def kernel_folder(version: Path, isa: str, kernel: str) -> Path | None:
    """Create the folder of a kernel's code, mark it as used now, and return it; None if that fails."""
    return use_folder(version / isa / re.sub(r"[^0-9A-Za-z_]+", "-", kernel))


def remove_unused(version: Path, isa: str) -> None:
    """Remove the code of other versions, other instruction sets and plugins that was not used for `MAX_AGE`.

    Other processes may remove or compile code at the same time. Each of them marks a folder as used before it reads or
    writes there (`kernel_folder`), so the folder's age protects it. If a folder is marked while it is being removed, it
    is put back; a process that does not find it meanwhile makes a new one, or compiles without the cache. Errors are
    ignored, because unused code does no harm.

    Parameters
    ----------
    version : Path
        `version_folder`: its code for ``isa`` and for any instruction set is kept, except that of plugins.
    isa : str
        The instruction set of this process.
    """
    kept = {version / ANY_ISA, version / isa}
    for other_version in _entries(version.parent):
        if not _VERSION_FOLDER.fullmatch(other_version.name):
            continue
        for group in _entries(other_version):
            for entry in _entries(group):
                if group not in kept or entry.name.startswith(PLUGIN_KERNELS):
                    _remove_if_unused(entry)
            with suppress(OSError):
                group.rmdir()  # fails unless it is empty
        with suppress(OSError):
            other_version.rmdir()


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder; none if it is a symbolic link or cannot be read."""
    with suppress(OSError):
        if not folder.is_symlink():
            yield from list(folder.iterdir())


def _remove_if_unused(entry: Path) -> None:
    """Remove a file or folder that is older than `MAX_AGE`."""
    with suppress(OSError):
        if not _is_unused(entry):
            return
        removed = entry.with_name(f"removed-{uuid.uuid4().hex}")
        entry.rename(removed)  # first, because other processes must not find half of its files

        if not _is_unused(removed):  # another process used it between the check and the renaming
            removed.rename(entry)
        elif removed.is_dir() and not removed.is_symlink():
            shutil.rmtree(removed)
        else:
            removed.unlink()


def _is_unused(entry: Path) -> bool:
    return time.time() - entry.lstat().st_mtime > MAX_AGE
