"""Reads and checks ``tokenizer.ggml.*`` metadata.

Errors name the key. Independent of tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import ModelError

PREFIX = "tokenizer.ggml."
"""Beginning of all keys; the functions take the rest of a key as ``name``."""


def read_strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    """Return a required array of strings, in which lone surrogates stand for bytes that are not UTF-8 (PEP 383)."""
    value = metadata.get(PREFIX + name)
    if value is None:
        raise ModelError(f"the model has no {PREFIX}{name}")
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise ModelError(f"{PREFIX}{name} is not an array of strings")
    try:
        "".join(value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ModelError(f"{PREFIX}{name} has a string that is not Unicode") from None
    return list(value)


def read_numbers(metadata: Mapping[str, Any], name: str, n: int) -> npt.NDArray[Any] | None:
    """Return the first ``n`` entries of an array of numbers, ``(n,)``; None if the key does not exist."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty((0, 0))
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ModelError(f"{PREFIX}{name} is not an array of numbers")
    if len(array) < n:
        raise ModelError(f"{PREFIX}{name} has {len(array)} entries, but there are {n} tokens")
    return array[:n]


def read_flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a boolean, or ``default`` if the key does not exist."""
    value = metadata.get(PREFIX + name, default)
    if not isinstance(value, bool | np.bool_):
        raise ModelError(f"{PREFIX}{name} is {value!r}, not true or false")
    return bool(value)


def read_string(metadata: Mapping[str, Any], name: str) -> str | None:
    """Return a string; None if the key does not exist."""
    value = metadata.get(PREFIX + name)
    if value is not None and not isinstance(value, str):
        raise ModelError(f"{PREFIX}{name} is {value!r}, not a string")
    return value


def read_token_id(metadata: Mapping[str, Any], name: str, n: int) -> int | None:
    """Return a token id below ``n``; None if the key does not exist."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ModelError(f"{PREFIX}{name} is {value!r}, not a token id")
    if not 0 <= value < n:
        raise ModelError(f"{PREFIX}{name} is {value}, but tokens are numbered 0 to {n - 1}")
    return int(value)
