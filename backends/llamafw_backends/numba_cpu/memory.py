"""Allocate large buffers from the operating system: zeroed, aligned, with physical memory only where they are used.

Linux and macOS reserve addresses and provide a page of memory when it is first touched, so a buffer for a long context
may be larger than the memory. Windows also provides pages when they are touched, but commits the whole buffer at once:
its size counts against the commit limit (memory plus page file) from the start, and a buffer above that limit is
refused with an OSError. Kernels touch pages without asking Python, so memory cannot be committed piece by piece.
"""

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
_HUGE_PAGE = 2 << 20  # bytes
_FLAGS = 0  # Windows has none
if hasattr(mmap, "MAP_PRIVATE"):
    # private, because shared memory gets no huge pages; not reserved, because most of a KV cache is never touched
    _FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sys.platform == "linux":
        _FLAGS |= 0x4000  # MAP_NORESERVE, which older versions of Python do not define


class Arena:
    """A memory mapping from which buffers are allocated one after the other.

    They are freed with the arena.

    Parameters
    ----------
    n_bytes : int
        Total size of the buffers, each rounded up to `ALIGNMENT`.
    huge : bool
        Ask for huge pages, which save page walks.
    """

    def __init__(self, n_bytes: int, *, huge: bool = False) -> None:
        self.n_bytes = n_bytes
        # more than n_bytes, for alignment and for loads that run over the end
        self._map = mmap.mmap(-1, n_bytes + 2 * _HUGE_PAGE, **({"flags": _FLAGS} if _FLAGS else {}))
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._next = -int(self._bytes.ctypes.data) % _HUGE_PAGE
        self._end = self._next + n_bytes

    def lock(self) -> None:
        """Lock the pages in memory, so they are never swapped out.

        Raises
        ------
        OSError
            The operating system does not allow it.
        """
        address, n_bytes = ctypes.c_void_p(int(self._bytes.ctypes.data)), ctypes.c_size_t(len(self._bytes))
        if sys.platform == "win32":
            if not ctypes.windll.kernel32.VirtualLock(address, n_bytes):
                raise ctypes.WinError()
        elif ctypes.CDLL(None, use_errno=True).mlock(address, n_bytes):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def allocate(self, n_bytes: int) -> int:
        """Return the address of ``n_bytes`` zeroed bytes, aligned to `ALIGNMENT`."""
        start = self._next
        self._next += align_up(n_bytes)
        if self._next > self._end:
            raise MemoryError(f"{n_bytes} bytes do not fit into what is left of an arena of {self.n_bytes} bytes")
        return int(self._bytes.ctypes.data) + start

    def view(self, address: int, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        """Return the memory at ``address`` as an array, which is valid as long as the arena exists."""
        start = address - int(self._bytes.ctypes.data)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        view: npt.NDArray[Any] = self._bytes[start : start + n_bytes].view(kind).reshape(shape)
        return view

    def store(self, values: npt.NDArray[Any]) -> int:
        """Allocate a copy of an array; return its address."""
        address = self.allocate(values.nbytes)
        self.view(address, values.shape, values.dtype)[...] = values
        return address


def align_up(n_bytes: int) -> int:
    """Return ``n_bytes`` rounded up to `ALIGNMENT`."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def padded_context(n_ctx: int) -> int:
    """Return ``n_ctx`` rounded up to whole blocks of keys."""
    return -(-n_ctx // LANES) * LANES
