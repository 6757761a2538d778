"""``--override-kv KEY=TYPE:VALUE``: change the metadata of a model.

Independent of files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamafw.errors import SettingsError

FIXED = ("general.alignment", "split.no", "split.count", "split.tensors.count")
"""Keys that describe the file. Changing them would have no effect, or would break reading."""


def apply_overrides(metadata: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of ``metadata`` with changed and added keys.

    The last override of a key wins.

    Parameters
    ----------
    metadata : mapping
        As read from the model file.
    overrides : sequence of str
        Each is ``KEY=TYPE:VALUE``, where TYPE is int, float, bool (true, false) or str.

    Raises
    ------
    SettingsError
        An override is malformed, changes the type of a key, or changes a key that describes the file.
    """
    changed = dict(metadata)
    for text in overrides:
        key, value = parse_override(text)
        if key in FIXED:
            raise SettingsError(f"--override-kv {text}: {key} describes the file and cannot be overridden")
        if key in metadata and type(metadata[key]) is not type(value):
            raise SettingsError(
                f"--override-kv {text}: {key} is {_type_name(metadata[key])} in the model, not {_type_name(value)}"
            )
        changed[key] = value
    return changed


def parse_override(text: str) -> tuple[str, int | float | bool | str]:
    """Return the key and value of ``KEY=TYPE:VALUE``; SettingsError if ``text`` is malformed."""
    key, equals, rest = text.partition("=")
    type_name, colon, value = rest.partition(":")
    if not key or not equals or not colon:
        raise SettingsError(f"--override-kv {text}: it must look like KEY=TYPE:VALUE")
    if type_name not in _PARSERS:
        raise SettingsError(f"--override-kv {text}: the type {type_name!r} is not one of {', '.join(_PARSERS)}")
    try:
        return key, _PARSERS[type_name](value)
    except ValueError:
        raise SettingsError(f"--override-kv {text}: {value!r} is not a valid {type_name}") from None


def _parse_int(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(text)
    return value


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_PARSERS: dict[str, Callable[[str], int | float | bool | str]] = {
    "int": _parse_int,
    "float": _parse_float,
    "bool": _parse_bool,
    "str": str,
}


def _type_name(value: Any) -> str:
    return {int: "int", float: "float", bool: "bool", str: "str"}.get(type(value), "an array")
