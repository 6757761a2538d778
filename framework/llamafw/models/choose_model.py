"""Choose a model in a repository by the quantization in the names of its files.

Independent of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from llamafw.errors import DownloadError
from llamafw.models.parts import is_first_part, model_name, part_names

DEFAULT_QUANTS = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q8_0")
"""Quantizations to choose by default, in order of preference."""

_NOT_A_MODEL = re.compile(r"(^|[-._/])(mmproj|imatrix)", re.I)  # vision projectors, and statistics for quantizing
MAX_LISTED = 20  # names in an error message


def choose_model(files: Iterable[str], quant: str | None, source: str) -> str:
    """Return the file to serve: a whole model, or the first part of one.

    Parameters
    ----------
    files : iterable of str
        Paths of the files in the repository.
    quant : str or None
        The end of the model's name. None stands for the first of `DEFAULT_QUANTS` that exists, or else for any model.
    source : str
        Name of the repository, for error messages.

    Raises
    ------
    DownloadError
        There is no such model; the message lists the existing ones.
    """
    models = sorted(filter(_is_model, files), key=lambda file: (file.count("/"), model_name(file).count("-"), file))
    if not models:
        raise DownloadError(f"{source} has no GGUF model")

    for wanted in (quant,) if quant else DEFAULT_QUANTS:
        # The look-behinds keep K_M from matching Q4_K_M.
        ending = re.compile(rf"(^|[-./]|(?<!q\d)(?<!_k)_){re.escape(wanted)}$", re.I)
        if matches := [file for file in models if ending.search(model_name(file))]:
            return matches[0]
    if quant is None:
        return min(models, key=lambda file: len(part_names(file)) > 1)
    raise DownloadError(f"{source} has no model of quantization {quant!r}; its models are {format_names(models)}")


def find_file(files: Sequence[str], file: str, source: str) -> str:
    """Return ``file`` if it exists.

    Raises
    ------
    DownloadError
        The file does not exist; the message suggests similar names, or lists the existing models.
    """
    if file in files:
        return file
    models = sorted(filter(_is_model, files))
    similar = get_close_matches(file, files, n=3)
    if similar:
        hint = f"did you mean {format_names(similar)}?"
    else:
        hint = f"its models are {format_names(models)}" if models else "it has no GGUF model"
    raise DownloadError(f"{source} has no file {file!r}; {hint}")


def find_parts(files: Sequence[str], first: str, source: str) -> list[str]:
    """Return the names of all parts of a model, given the name of its first part or only file.

    Raises
    ------
    DownloadError
        ``first`` is another part, or a part does not exist.
    """
    names = part_names(first)
    if not is_first_part(first):
        raise DownloadError(f"{first} is one of the {len(names)} parts of a model; name the first one, {names[0]}")
    if missing := [name for name in names if name not in files]:
        raise DownloadError(f"{source} lacks {format_names(missing)}")
    return names


def format_names(names: Sequence[str]) -> str:
    """Return a list of names for an error message, limited to `MAX_LISTED`."""
    rest = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + rest


def _is_model(file: str) -> bool:
    """Return whether a file is a GGUF model, or the first part of one."""
    return file.lower().endswith(".gguf") and not _NOT_A_MODEL.search(file) and is_first_part(file)
