"""Reads and checks the metadata of one architecture.

Independent of what the keys mean.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from llamafw.errors import ModelError
from llamafw.types import Model

_MISSING: Any = object()


class Metadata:
    """The metadata keys of a model that begin with ``<architecture>.``.

    Every error is a ModelError that names the key.
    """

    def __init__(self, model: Model, architecture: str) -> None:
        self.model, self.architecture = model, architecture

    def integer(self, key: str, default: int = _MISSING, *, low: int = 1, high: int = 2**31 - 1) -> int:
        """Return a whole number from ``low`` to ``high``.

        A key without a default is required.

        The value may be an array with one number per layer if all are equal.
        """
        value = self._get(key, default)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu":
            if (value != value[0]).any():
                self.fail(key, "differs from layer to layer, which is not supported")
            value = value[0].item()
        if type(value) is not int or not low <= value <= high:
            self.fail(key, f"is {value!r:.80}; it must be a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float = _MISSING, *, low: float, allow_low: bool = False) -> float:
        """Return a finite number above ``low``; ``allow_low`` permits ``low`` itself.

        A key without a default is required.
        """
        value = self._get(key, default)
        is_number = type(value) in (int, float) and math.isfinite(value)
        if not is_number or value < low or (value == low and not allow_low):
            limit = f"of at least {low}" if allow_low else f"above {low}"
            self.fail(key, f"is {value!r:.80}; it must be a finite number {limit}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        """Return a string, or the default if the key is missing."""
        value = self._get(key, default)
        if not isinstance(value, str):
            self.fail(key, f"is {value!r:.80}; it must be a string")
        return value

    def has(self, key: str) -> bool:
        """Return whether the model has the key."""
        return f"{self.architecture}.{key}" in self.model.metadata

    def fail(self, key: str, reason: str) -> NoReturn:
        """Raise a ModelError about a key; ``reason`` continues the sentence after the key's name: ``"is missing"``."""
        raise ModelError(f"{self.model.path}: {self.architecture}.{key} {reason}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.model.metadata.get(f"{self.architecture}.{key}", default)
        if value is _MISSING:
            self.fail(key, "is missing")
        return value
