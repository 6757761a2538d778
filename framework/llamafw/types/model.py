"""A model file in memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamafw.types.arrays import Bytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model file, not loaded yet.

    ``shape`` is in numpy order, outermost dimension first: a GGUF matrix with ``ne = [n_in, n_out]`` has
    shape ``(n_out, n_in)``. ``data`` is a read-only uint8 view of the file's bytes, ``(n_bytes,)``. With
    ``--requantize``, and if a Hugging Face checkpoint stores other numbers than GGUF, it is computed when it is read:
    keep it while it is needed, instead of reading it again.
    """

    name: str  # "blk.0.attn_q.weight"
    shape: tuple[int, ...]
    type_name: str  # name of the ggml type: "F32", "Q4_1" …
    data: Bytes

    @property
    def n_bytes(self) -> int:
        """Size of ``data`` in bytes, which need not be computed for it."""
        return self.data.nbytes

    @property
    def held_bytes(self) -> int:
        """How much memory the tensor takes while nobody reads it: 0 if it is in a mapped file, or computed."""
        return 0 if self._mapping() is not None else self.n_bytes

    def release(self) -> None:
        """Let the operating system take back the memory of the file's pages, which can be read again.

        Does nothing if the data are not in a mapped file.
        """
        mapping = self._mapping()
        if mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = int(self.data.ctypes.data) - int(np.frombuffer(mapping, np.uint8).ctypes.data)
        page, end = mmap.PAGESIZE, start + self.data.nbytes
        first, last = -(-start // page) * page, end // page * page
        if first < last:
            mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _mapping(self) -> mmap.mmap | None:
        """Return the mapped file that the data are in; None if they are not in one."""
        owner: Any = self.data
        while isinstance(owner, np.ndarray | memoryview):
            owner = owner.obj if isinstance(owner, memoryview) else owner.base
        return owner if isinstance(owner, mmap.mmap) else None


@dataclass(frozen=True, slots=True)
class Model:
    """An open model file: metadata in memory, tensors on disk."""

    path: Path  # the file or folder
    metadata: Mapping[str, Any]  # GGUF keys to values; arrays are lists or numpy arrays
    tensors: Mapping[str, Tensor]  # by name
    n_bytes: int  # total size of the tensors
