"""Choose a model among the files of a repository, by the quantization in their names. It knows nothing of the hub."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from llamafw.errors import DownloadError

DEFAULT_QUANTS = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q8_0")
"""What is chosen if nothing is asked for, the first that there is."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.I)
_NO_MODEL = re.compile(r"(^|[-._/])(mmproj|imatrix)", re.I)  # vision projectors, statistics for quantizing


def choose(files: Iterable[str], quant: str | None, where: str) -> str:
    """Return the file to serve: the one whose name ends in ``quant``; by default the first of `DEFAULT_QUANTS`.

    Of a model in parts it is the first part.

    Raises
    ------
    DownloadError
        There is none; the message names what there is, and ``where``.
    """
    models = sorted(filter(_is_model, files), key=lambda file: (file.count("/"), _stem(file).count("-"), file))
    if not models:
        raise DownloadError(f"{where} has no GGUF model in it")
    for wanted in (quant,) if quant else DEFAULT_QUANTS:
        tail = re.compile(rf"(^|[-./]|(?<!q\d)(?<!_k)_){re.escape(wanted)}$", re.I)  # K_M is no quantization of Q4_K_M
        if found := [file for file in models if tail.search(_stem(file))]:
            return found[0]
    if quant is None:
        return min(models, key=lambda file: _PART.fullmatch(file) is not None)
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


def parts(file: str) -> list[str]:
    """Return the names of all parts of a model that ``file`` is the first part of, or just ``file``."""
    match = _PART.fullmatch(file)
    if not match:
        return [file]
    suffix = file[-5:]
    return [f"{match['stem']}-{number:05}-of-{match['count']}{suffix}" for number in range(1, int(match["count"]) + 1)]


def listed(names: Sequence[str]) -> str:
    """Return names for an error message, not too many."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _is_model(file: str) -> bool:
    """Say whether a file is one to serve: a GGUF model, or its first part."""
    part = _PART.fullmatch(file)
    return file.lower().endswith(".gguf") and not _NO_MODEL.search(file) and (not part or int(part["number"]) == 1)


def _stem(file: str) -> str:
    part = _PART.fullmatch(file)
    return part["stem"] if part else file[: -len(".gguf")]
