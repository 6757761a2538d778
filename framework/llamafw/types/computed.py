"""Tensors whose data are computed when they are read."""

from __future__ import annotations

import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable

from llamafw.types.arrays import Bytes
from llamafw.types.model import Tensor


class ComputedTensor(Tensor):
    """A tensor that is in memory only while somebody keeps its data.

    Parameters
    ----------
    name, shape, type_name : str, tuple of int, str
        As in `Tensor`.
    """

    __slots__ = ("_lock", "_data")

    __setattr__ = object.__setattr__  # the fields of the dataclass are frozen, and those here are not

    def __init__(self, name: str, shape: tuple[int, ...], type_name: str) -> None:
        for field, value in (("name", name), ("shape", shape), ("type_name", type_name)):
            object.__setattr__(self, field, value)
        self._lock = threading.Lock()
        self._data: Callable[[], Bytes | None] = lambda: None

    @property
    def data(self) -> Bytes:
        """The tensor's bytes, ``(n_bytes,)`` uint8.

        They are computed again if nothing has kept them.
        """
        with self._lock:
            data = self._data()
            if data is None:
                data = self._compute()
                self._data = weakref.ref(data)
        return data

    @property
    def held_bytes(self) -> int:
        """Nothing: it is computed when it is read."""
        return 0

    @abstractmethod
    def _compute(self) -> Bytes:
        """Return the data."""
