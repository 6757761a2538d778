"""Typed reading of ``tokenizer.ggml.*`` metadata; every error names its key. It knows nothing of tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import ModelError

PREFIX = "tokenizer.ggml."


def strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    """Return a required array of strings; lone surrogates in them stand for bytes that are no UTF-8."""
    found = metadata.get(PREFIX + name)
    if found is None:
        raise ModelError(f"the model has no {PREFIX}{name}")
    if isinstance(found, str) or not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        raise ModelError(f"{PREFIX}{name} is no array of strings")
    try:
        "".join(found).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ModelError(f"{PREFIX}{name} has a text that is no Unicode") from None
    return list(found)


def numbers(metadata: Mapping[str, Any], name: str, n: int) -> npt.NDArray[Any] | None:
    """Return the first ``n`` entries of an array of numbers, ``(n,)``; None if there is no such key."""
    found = metadata.get(PREFIX + name)
    if found is None:
        return None
    try:
        array = np.asarray(found)
    except ValueError:
        array = np.empty((0, 0))
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ModelError(f"{PREFIX}{name} is no array of numbers")
    if len(array) < n:
        raise ModelError(f"{PREFIX}{name} has {len(array)} entries, and there are {n} tokens")
    return array[:n]


def flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a truth value."""
    found = metadata.get(PREFIX + name, default)
    if not isinstance(found, bool | np.bool_):
        raise ModelError(f"{PREFIX}{name} is {found!r}, not true or false")
    return bool(found)


def text(metadata: Mapping[str, Any], name: str) -> str | None:
    """Return a string; None if there is no such key."""
    found = metadata.get(PREFIX + name)
    if found is not None and not isinstance(found, str):
        raise ModelError(f"{PREFIX}{name} is {found!r}, not a string")
    return found


def token_id(metadata: Mapping[str, Any], name: str, n: int) -> int | None:
    """Return a token id below ``n``; None if there is no such key."""
    found = metadata.get(PREFIX + name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | np.integer):
        raise ModelError(f"{PREFIX}{name} is {found!r}, not a token id")
    if not 0 <= found < n:
        raise ModelError(f"{PREFIX}{name} is {found}, and there are {n} tokens")
    return int(found)
