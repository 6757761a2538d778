"""Change metadata from the command line: ``--override-kv KEY=TYPE:VALUE``. It knows nothing of files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamafw.errors import SettingsError

FIXED = ("general.alignment", "split.no", "split.count", "split.tensors.count")
"""Keys that describe the file, not the model: to change them would have no effect or break reading."""


def apply_overrides(metadata: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``metadata`` with ``overrides`` applied; the last one of a key wins, new keys are added.

    Parameters
    ----------
    metadata : mapping
        As read from the model file.
    overrides : sequence of str
        ``KEY=TYPE:VALUE`` each, TYPE one of int, float, bool (true, false) and str.

    Raises
    ------
    SettingsError
        An override cannot be read, or the model has the key with another type.
    """
    changed = dict(metadata)
    for text in overrides:
        key, value = parse_override(text)
        if key in FIXED:
            raise SettingsError(f"--override-kv {text}: {key} describes the file and cannot be overridden")
        if key in metadata and type(metadata[key]) is not type(value):
            raise SettingsError(
                f"--override-kv {text}: {key} is {_kind(metadata[key])} in the model, not {_kind(value)}"
            )
        changed[key] = value
    return changed


def parse_override(text: str) -> tuple[str, int | float | bool | str]:
    """Return the key and value of ``KEY=TYPE:VALUE``; SettingsError naming ``text`` if it is none."""
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not key or not equals or not colon:
        raise SettingsError(f"--override-kv {text}: it must look like KEY=TYPE:VALUE")
    if kind not in _PARSERS:
        raise SettingsError(f"--override-kv {text}: the type {kind!r} is none of {', '.join(_PARSERS)}")
    try:
        return key, _PARSERS[kind](value)
    except ValueError:
        raise SettingsError(f"--override-kv {text}: {value!r} is no value of type {kind}") from None


def _int(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(text)
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_PARSERS: dict[str, Callable[[str], int | float | bool | str]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": str,
}


def _kind(value: Any) -> str:
    return {int: "int", float: "float", bool: "bool", str: "str"}.get(type(value), "an array")
