"""Reads and checks the metadata of one architecture.

Independent of what the keys mean.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

import numpy as np

from llamafw.errors import ModelError
from llamafw.types import Model

_MISSING: Any = object()


class Heads(NamedTuple):
    """Numbers and sizes of the attention heads of a model whose layers are alike."""

    n: int  # of queries
    n_kv: int  # of keys and values
    size: int  # of one query or key
    value_size: int


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

    def integers(self, key: str, n: int, default: int = _MISSING, *, low: int = 0) -> list[int]:
        """Return ``n`` whole numbers of at least ``low``, one per layer.

        The value is an array of them, or one number for all layers.
        """
        value = self._get(key, default)
        numbers = value.tolist() if isinstance(value, np.ndarray) else value
        numbers = numbers if isinstance(numbers, list) else [numbers] * n
        if any(type(one) is not int or not low <= one < 2**31 for one in numbers):
            self.fail(key, f"is {value!r:.80}; it must be a whole number of at least {low}, or one per layer")
        if len(numbers) < n:
            self.fail(key, f"has {len(numbers)} numbers; there are {n} layers")
        return numbers[:n]

    def numbers(self, key: str, n: int) -> list[float]:
        """Return ``n`` numbers, one per layer, which may be infinite."""
        value = self._get(key, _MISSING)
        numbers = value.tolist() if isinstance(value, np.ndarray) else None
        if not isinstance(numbers, list) or len(numbers) < n or any(type(one) is not float for one in numbers):
            self.fail(key, f"is {value!r:.80}; it must have one number per layer, for {n} layers")
        if any(math.isnan(one) for one in numbers):
            self.fail(key, f"is {value!r:.80}; a number is not a number")
        return numbers[:n]

    def windowed_layers(self, n: int, period: int, *, dense_first: bool = False) -> list[bool]:
        """Return whether each of ``n`` layers sees only a window, from ``attention.sliding_window_pattern``.

        Parameters
        ----------
        n : int
            Number of layers.
        period : int
            Of the pattern, if the file has none: one layer in ``period`` sees all tokens.
        dense_first : bool
            Whether it is the first layer of each period. Otherwise it is the last one.
        """
        key = "attention.sliding_window_pattern"
        if isinstance(self._get(key, period), np.ndarray):
            return self.flags(key, n)
        period = self.integer(key, period, low=0)
        return [period == 0 or (i % period != 0 if dense_first else i % period < period - 1) for i in range(n)]

    def flags(self, key: str, n: int) -> list[bool]:
        """Return ``n`` values that are true or false, one per layer."""
        value = self._get(key, _MISSING)
        flags = value.tolist() if isinstance(value, np.ndarray) else [value]
        if len(flags) < n or any(one not in (0, 1) for one in flags):
            self.fail(key, f"is {value!r:.80}; it must have one value per layer, true or false, for {n} layers")
        return [bool(one) for one in flags[:n]]

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool | np.bool_):
            self.fail(key, f"is {value!r:.80}; it must be true or false")
        return bool(value)

    def heads(self) -> Heads:
        """Return the numbers and sizes of heads; ModelError if they do not fit together."""
        n = self.integer("attention.head_count")
        n_kv = self.integer("attention.head_count_kv", n)
        if n % n_kv:
            raise ModelError(f"{self.model.path}: {n} heads cannot be divided evenly among {n_kv} KV heads")
        size = self.integer("attention.key_length", self.integer("embedding_length") // n)
        return Heads(n, n_kv, size, self.integer("attention.value_length", size))

    def head_size(self, n_head: int, suffix: str = "") -> int:
        """Return the size of one head; ModelError if values have another size than keys.

        The suffix ``_swa`` belongs to the keys for layers with a window, if their heads have another size.
        """
        if n_head < 1:
            self.fail("attention.head_count", f"is {n_head}; a layer with attention must have a head")
        size = self.integer(f"attention.key_length{suffix}", self.integer("embedding_length") // n_head)
        of_values = f"attention.value_length{suffix}"
        if self.integer(of_values, size) != size:
            self.fail(of_values, f"differs from the size of keys, {size}, which is not supported")
        return size

    def attention_scale(self, size: int) -> float:
        """Return the factor on scores: ``attention.scale``, or ``1 / sqrt(size)`` if the key is missing or 0."""
        return self.number("attention.scale", 0.0, low=0, allow_low=True) or 1 / math.sqrt(size)

    def attention_temperature(self) -> tuple[float, int] | None:
        """Return the factor and the length by which queries grow with their position; see `Attention`."""
        factor = self.number("attention.temperature_scale", 0.0, low=0, allow_low=True)
        if not factor:
            return None
        length = self.integer("attention.temperature_length", 0, low=0)  # 0: not given
        return factor, length or self.integer("rope.scaling.original_context_length", self.integer("context_length"))

    def n_rotated(self, size: int, suffix: str = "") -> int:
        """Return how many numbers of a head are rotated; ModelError if it is odd or above the head size, ``size``."""
        n = self.integer(f"rope.dimension_count{suffix}", size)
        if n > size or n % 2:
            self.fail(f"rope.dimension_count{suffix}", f"is {n}; it must be even and at most the head size, {size}")
        return n

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
