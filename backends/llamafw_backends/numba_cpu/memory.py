"""Memory from the operating system: zeroed, aligned, and free of charge until touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw_backends.numba_cpu.emit import LANES

ALIGNMENT = 64  # bytes: a cache line, and a vector
_HUGE = 2 << 20
_FLAGS = 0  # Windows has none
if hasattr(mmap, "MAP_PRIVATE"):
    # private, since shared memory gets no huge pages; not reserved, since most of a KV cache is never touched
    _FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sys.platform == "linux":
        _FLAGS |= 0x4000  # MAP_NORESERVE, which Python has not always known


class Arena:
    """One mapping, handed out piece by piece. ``huge`` asks for huge pages, which spares the processor page walks."""

    def __init__(self, n_bytes: int, *, huge: bool = False) -> None:
        self.n_bytes = n_bytes
        # room to align, and for loads that run over the end
        self._map = mmap.mmap(-1, n_bytes + 2 * _HUGE, **({"flags": _FLAGS} if _FLAGS else {}))
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._next = -int(self._bytes.ctypes.data) % _HUGE
        self._end = self._next + n_bytes

    def lock(self) -> None:
        """Keep these pages in memory; OSError if the system allows no more, or knows nothing of it."""
        address, n_bytes = ctypes.c_void_p(int(self._bytes.ctypes.data)), ctypes.c_size_t(len(self._bytes))
        if sys.platform == "win32":
            if not ctypes.windll.kernel32.VirtualLock(address, n_bytes):
                raise ctypes.WinError()
        elif ctypes.CDLL(None, use_errno=True).mlock(address, n_bytes):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def take(self, n_bytes: int) -> int:
        """Return the address of ``n_bytes`` zeroed bytes, aligned to `ALIGNMENT`."""
        start = self._next
        self._next += padded(n_bytes)
        if self._next > self._end:
            raise MemoryError(f"arena of {self.n_bytes} bytes is full")
        return int(self._bytes.ctypes.data) + start

    def view(self, address: int, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        """Return the memory at ``address`` as an array. It is valid as long as the arena is."""
        start = address - int(self._bytes.ctypes.data)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        view: npt.NDArray[Any] = self._bytes[start : start + n_bytes].view(kind).reshape(shape)
        return view

    def put(self, values: npt.NDArray[Any]) -> int:
        """Copy an array in; return its address."""
        address = self.take(values.nbytes)
        self.view(address, values.shape, values.dtype)[...] = values
        return address


def padded(n_bytes: int) -> int:
    """Return ``n_bytes`` rounded up to `ALIGNMENT`."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def padded_context(n_ctx: int) -> int:
    """Return ``n_ctx`` rounded up to whole blocks of keys."""
    return -(-n_ctx // LANES) * LANES
