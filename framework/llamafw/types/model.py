"""A model file in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafw.types.arrays import Bytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model file, not loaded yet.

    ``shape`` is in numpy order, outermost dimension first: a GGUF matrix with ``ne = [n_in, n_out]`` has
    shape ``(n_out, n_in)``. ``data`` is a read-only uint8 view of the file's bytes, ``(n_bytes,)``.
    """

    name: str  # "blk.0.attn_q.weight"
    shape: tuple[int, ...]
    type_name: str  # name of the ggml type: "F32", "Q4_1" …
    data: Bytes


@dataclass(frozen=True, slots=True)
class Model:
    """An open model file: metadata in memory, tensors on disk."""

    path: Path  # the file or folder
    metadata: Mapping[str, Any]  # GGUF keys to values; arrays are lists or numpy arrays
    tensors: Mapping[str, Tensor]  # by name
    n_bytes: int  # total size of the tensors
