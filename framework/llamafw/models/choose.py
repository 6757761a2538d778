"""Choose a model among the files of a repository, by the quantization in their names. It knows nothing of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from llamafw.errors import DownloadError
from llamafw.models.parts import is_first, parts, whole

DEFAULT_QUANTS = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q8_0")
"""What is chosen if nothing is asked for, the first that there is."""

_NO_MODEL = re.compile(r"(^|[-._/])(mmproj|imatrix)", re.I)  # vision projectors, statistics for quantizing


def choose(files: Iterable[str], quant: str | None, where: str) -> str:
    """Return the file to serve: the one whose name ends in ``quant``; by default the first of `DEFAULT_QUANTS`.

    Of a model in parts it is the first part.

    Raises
    ------
    DownloadError
        There is none; the message names what there is, and ``where``.
    """
    models = sorted(filter(_is_model, files), key=lambda file: (file.count("/"), whole(file).count("-"), file))
    if not models:
        raise DownloadError(f"{where} has no GGUF model in it")
    for wanted in (quant,) if quant else DEFAULT_QUANTS:
        tail = re.compile(rf"(^|[-./]|(?<!q\d)(?<!_k)_){re.escape(wanted)}$", re.I)  # K_M is no quantization of Q4_K_M
        if found := [file for file in models if tail.search(whole(file))]:
            return found[0]
    if quant is None:
        return min(models, key=lambda file: len(parts(file)) > 1)
    raise DownloadError(f"{where} has no {quant!r}; there are {listed(models)}")


def find(files: Sequence[str], file: str, where: str) -> str:
    """Return ``file`` if it is there.

    Raises
    ------
    DownloadError
        It is not; the message names what is near, or what there is.
    """
    if file in files:
        return file
    models = sorted(filter(_is_model, files))
    near = get_close_matches(file, files, n=3)
    hint = f"did you mean {listed(near)}?" if near else f"there are {listed(models)}" if models else "nor any GGUF file"
    raise DownloadError(f"{where} has no file {file!r}; {hint}")


def all_parts(files: Sequence[str], first: str, where: str) -> list[str]:
    """Return the names of all parts of the model whose first part, or only file, is ``first``.

    Raises
    ------
    DownloadError
        ``first`` is another part, or one is not there.
    """
    names = parts(first)
    if not is_first(first):
        raise DownloadError(f"{first} is one of {len(names)} parts of a model; name the first, {names[0]}")
    if missing := [name for name in names if name not in files]:
        raise DownloadError(f"{where} lacks {listed(missing)}")
    return names


def listed(names: Sequence[str]) -> str:
    """Return names for an error message, not too many."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _is_model(file: str) -> bool:
    """Say whether a file is one to serve: a GGUF model, or its first part."""
    return file.lower().endswith(".gguf") and not _NO_MODEL.search(file) and is_first(file)
