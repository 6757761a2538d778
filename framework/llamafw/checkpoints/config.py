"""Reads the values of a checkpoint's ``config.json``; every error names the file and the key.

Independent of what the keys mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from llamafw.errors import ModelError

_MISSING: Any = object()


class Config:
    """A JSON object: ``config.json``, or a section of it.

    Methods take several names if configs name the same value differently; the first one that is present counts. A value
    of null counts as absent.

    Parameters
    ----------
    path : Path
        The file, for error messages.
    values : mapping
        The object.
    prefix : str
        What precedes keys in error messages: ``"text_config."``.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path, self.values, self.prefix = path, values, prefix

    def get(self, *names: str, default: Any = None) -> Any:
        """Return a value as it is."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def has(self, *names: str) -> bool:
        """Return whether one of the names has a value."""
        return self.get(*names) is not None

    def integer(self, *names: str, default: int = _MISSING, low: int = 1) -> int:
        """Return a whole number of at least ``low``; without a default it is required."""
        value = self._get(names, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value < 2**31:
            self.fail(self._present(names), f"is {value!r:.80}; it must be a whole number of at least {low}")
        return value

    def number(self, *names: str, default: float = _MISSING) -> float:
        """Return a finite number; without a default it is required."""
        value = self._get(names, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            self.fail(self._present(names), f"is {value!r:.80}; it must be a finite number")
        return float(value)

    def flag(self, *names: str, default: bool) -> bool:
        """Return true or false."""
        value = self._get(names, default)
        if not isinstance(value, bool):
            self.fail(self._present(names), f"is {value!r:.80}; it must be true or false")
        return value

    def text(self, *names: str, default: str = _MISSING) -> str:
        """Return a string; without a default it is required."""
        value = self._get(names, default)
        if not isinstance(value, str):
            self.fail(self._present(names), f"is {value!r:.80}; it must be a string")
        return value

    def list(self, *names: str, n: int | None = None, default: Any = _MISSING) -> list[Any]:
        """Return a list, of at least ``n`` values if given, of which the first ``n`` are returned."""
        value = self._get(names, default)
        if not isinstance(value, list | tuple):
            self.fail(self._present(names), f"is {value!r:.80}; it must be a list")
        if n is not None and len(value) < n:
            self.fail(self._present(names), f"has {len(value)} values; it must have {n}")
        return list(value[:n])

    def section(self, *names: str) -> Config:
        """Return an object within this one; an empty one if it is absent."""
        value = self._get(names, {})
        if not isinstance(value, Mapping):
            self.fail(self._present(names), f"is {value!r:.80}; it must be an object")
        return Config(self.path, value, f"{self.prefix}{self._present(names)}.")

    def with_defaults(self, **values: Any) -> Config:
        """Return the config with values for keys that are absent: those of the class of transformers."""
        present = {name: value for name, value in self.values.items() if value is not None}
        return Config(self.path, values | present, self.prefix)

    def text_section(self) -> Config:
        """Return ``text_config``, which models for texts and images have; the config itself if it is absent."""
        return self.section("text_config") if self.has("text_config") else self

    def require(self, name: str, *allowed: Any, default: Any = None) -> None:
        """Raise ModelError if a value is none of the allowed ones: the graph does not describe such a model."""
        value = self.get(name, default=default)
        if value not in allowed:
            wanted = " or ".join(json.dumps(one) for one in allowed)
            self.fail(name, f"is {json.dumps(value):.80}, which is not supported; only {wanted} is")

    def fail(self, name: str, reason: str) -> NoReturn:
        """Raise a ModelError about a key; ``reason`` continues the sentence after its name: ``"is missing"``."""
        raise ModelError(f"{self.path}: {self.prefix}{name} {reason}")

    def _present(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if self.values.get(name) is not None), names[0])

    def _get(self, names: tuple[str, ...], default: Any) -> Any:
        value = self.get(*names, default=default)
        if value is _MISSING:
            self.fail(" or ".join(names), "is missing")
        return value


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises
    ------
    ModelError
        The file cannot be read, or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def read_config(folder: Path) -> Config:
    """Return the ``config.json`` of a checkpoint."""
    path = folder / "config.json"
    return Config(path, read_json(path))
