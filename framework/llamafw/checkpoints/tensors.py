"""Tensors of a checkpoint, and GGUF's tensors that are computed from them when they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from llamafw.checkpoints.changes import Array
from llamafw.checkpoints.rules import Rule
from llamafw.types import Bytes, Tensor
from llamafw.types.computed import ComputedTensor

TYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F32"}
"""The tensor type for each dtype of numpy. Doubles are rounded."""

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""The dtypes of safetensors files (https://github.com/huggingface/safetensors#format)."""


@dataclass(frozen=True, slots=True)
class CheckpointTensor:
    """One tensor of a checkpoint, not loaded yet."""

    name: str  # "model.layers.0.self_attn.q_proj.weight"
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    path: Path  # the file, for error messages
    files: tuple[Tensor, ...]  # the bytes in files that it is read from, for samples of them and to release memory
    read: Callable[[], Array]  # returns the numbers; a view of the mapped file if they are stored as they are

    def release(self) -> None:
        """Let the operating system take back the memory of the file's pages."""
        for part in self.files:
            part.release()

    def empty(self) -> Array:
        """Return an array of this shape and dtype that needs no memory."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)


@dataclass(frozen=True, slots=True)
class Packed:
    """Blocks of a quantised tensor type, as the result of a `Change`."""

    type_name: str  # "MXFP4"
    shape: tuple[int, ...]  # of the weights
    blocks: Bytes  # (…, bytes per row) uint8

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the blocks."""
        return self.blocks.dtype


class ConvertedTensor(ComputedTensor):
    """A tensor that is computed from those of a checkpoint when its data are read.

    Parameters
    ----------
    name : str
        GGUF's name.
    shape, type_name : tuple of int, str
        What `data` will be.
    sources : sequence of CheckpointTensor
        What it is computed from.
    rule : Rule
        How.
    index : int
        Which of the rule's targets it is.
    n_bytes : int
        The size of `data`.
    """

    __slots__ = ("sources", "rule", "_index", "_n_bytes")

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        type_name: str,
        sources: Sequence[CheckpointTensor],
        rule: Rule,
        index: int,
        n_bytes: int,
    ) -> None:
        super().__init__(name, shape, type_name)
        self.sources, self.rule = tuple(sources), rule
        self._index, self._n_bytes = index, n_bytes

    def __repr__(self) -> str:
        return f"<{self.name} {self.shape} {self.type_name} from {', '.join(one.name for one in self.sources)}>"

    @property
    def n_bytes(self) -> int:
        """Size of `data` in bytes."""
        return self._n_bytes

    def release(self) -> None:
        """Let the operating system take back the memory of the files' pages."""
        for source in self.sources:
            source.release()

    def _compute(self) -> Bytes:
        result = self.rule.forward([source.read() for source in self.sources])[self._index]
        data = as_bytes(result, self.type_name)
        self.release()
        data.flags.writeable = False
        return data


def type_of(array: Array | Packed, name: str) -> str | None:
    """Return the tensor type that an array is stored with under a GGUF name; None if there is none for its dtype.

    Matrices keep their type. Vectors, routers of experts, convolutions and what has no suffix are F32, as in the files
    that llama.cpp's converter writes; that is exact.
    """
    if isinstance(array, Packed):
        return array.type_name
    type_name = TYPE_NAMES.get(array.dtype.name)
    if type_name is None or array.ndim <= 1 or not name.endswith(".weight"):
        return type_name and "F32"
    return "F32" if name.split(".")[-2] in _ALWAYS_FLOAT32 else type_name


def n_bytes(array: Array | Packed, type_name: str) -> int:
    """Return how many bytes `as_bytes` returns."""
    if isinstance(array, Packed):
        return array.blocks.size
    return array.size * (4 if type_name == "F32" else array.itemsize)


_ALWAYS_FLOAT32 = (
    "ffn_gate_inp",
    "ffn_gate_inp_shexp",
    "ssm_conv1d",
    "conv",
    "position_embd",
    "token_types",
    "attn_rel_b",
)


def as_bytes(array: Array | Packed, type_name: str) -> Bytes:
    """Return an array's bytes as a tensor type stores them, ``(n_bytes,)`` uint8; a view if possible."""
    if isinstance(array, Packed):
        return np.ascontiguousarray(array.blocks).reshape(-1)
    if type_name == "F32" and array.dtype != np.float32:
        array = array.astype(np.float32)
    result: Bytes = np.require(array, requirements=["C", "A"]).reshape(-1).view(np.uint8)
    return result
