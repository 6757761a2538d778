"""Write GGUF files, tensor by tensor, so that a file of any size needs little memory.

A file has a temporary name until it is complete. Metadata of another file are copied byte by byte, which keeps the
types of numbers and text that is not UTF-8; tensors may have types of plugins. The writer of the `gguf` package can do
neither. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llamafw.errors import ModelError
from llamafw.models.gguf import DEFAULT_ALIGNMENT, MAGIC
from llamafw.models.gguf_values import ARRAY, BOOL, NUMBERS, STRING, RawValue
from llamafw.models.part_files import check_space, part_file
from llamafw.types import Bytes

VERSION = 3

_TYPES = {dtype: number for number, dtype in NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to write."""

    name: str
    shape: tuple[int, ...]  # outermost dimension first
    type_id: int
    n_bytes: int
    parts: Callable[[], Iterable[Bytes]]  # called once, when the tensor is written; together they have n_bytes


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[OutputTensor],
    *,
    force: bool = False,
    written: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Write a file.

    Parameters
    ----------
    path : Path
        The file.
    metadata : mapping
        Keys and values; `encode` says what a value may be.
    tensors : sequence of OutputTensor
        The tensors, in the order of the file.
    force : bool
        Replace the file if it exists.
    written : callable
        Receives the number of bytes of tensors that are written so far.

    Raises
    ------
    ModelError
        The file exists, or cannot be written. Nothing is left of it.
    """
    check_free(path, force=force)
    header, starts = _layout(metadata, tensors)
    n_bytes = len(header) + (starts[-1] + tensors[-1].n_bytes if tensors else 0)
    try:
        with part_file(path) as part:
            check_space(path, n_bytes)
            with part.open("wb") as file:
                file.write(header)
                _write_tensors(file, tensors, starts, written)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror or error}") from error


def check_free(path: Path, *, force: bool) -> None:
    """Raise ModelError if a file cannot be created at ``path`` because of what is there."""
    if path.is_dir():
        raise ModelError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise ModelError(f"{path} cannot be written: the folder {path.parent} does not exist")
    if path.exists() and not force:
        raise ModelError(f"{path} exists; --force replaces it")


def encode(value: Any) -> bytes:
    """Return the bytes of a value, which begin with its type.

    Parameters
    ----------
    value : object
        A `RawValue` is copied. A bool, a str, a number or an array of numpy keeps its type. An int becomes a uint32, or
        a larger type if it must, and a float a float32. A list has items of one kind: str, bool, int (int32), float
        (float32), or lists and arrays.

    Raises
    ------
    TypeError
        It is none of these.
    """
    match value:
        case RawValue():
            return value.data
        case bool() | np.bool_():
            return struct.pack("<I?", BOOL, bool(value))
        case np.generic() if value.dtype.newbyteorder("<") in _TYPES:
            return struct.pack("<I", _TYPES[value.dtype.newbyteorder("<")]) + value.tobytes()
        case str():
            return struct.pack("<I", STRING) + _string(value)
        case int():
            return encode(_scalar(value, (np.uint32, np.int32, np.uint64, np.int64)))
        case float():
            return encode(np.float32(value))
        case list() | tuple() | np.ndarray():
            return struct.pack("<I", ARRAY) + _array(value)
    raise TypeError(f"{value!r:.80} cannot be a value of a GGUF file")


def _array(items: Any) -> bytes:
    """Return the bytes of an array: the type of its items, their number, and the items."""
    if isinstance(items, np.ndarray):
        kind = BOOL if items.dtype == np.bool_ else _TYPES[items.dtype.newbyteorder("<")]
        return struct.pack("<IQ", kind, items.size) + items.tobytes()
    if items and all(isinstance(item, str) for item in items):
        return struct.pack("<IQ", STRING, len(items)) + b"".join(map(_string, items))
    if any(isinstance(item, list | tuple | np.ndarray) for item in items):
        return struct.pack("<IQ", ARRAY, len(items)) + b"".join(map(_array, items))
    array = np.array(items) if items else np.empty(0, np.int32)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{items!r:.80} cannot be an array of a GGUF file")
    if array.dtype.kind in "iu":
        fits = not array.size or (array.min() >= -(2**31) and array.max() < 2**31)
        array = array.astype(np.int32 if fits else np.int64)
    return _array(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _scalar(number: int, kinds: Iterable[type[np.integer[Any]]]) -> np.integer[Any]:
    for kind in kinds:
        if np.iinfo(kind).min <= number <= np.iinfo(kind).max:
            return kind(number)
    raise TypeError(f"{number} is too large for a GGUF file")


def _string(text: str) -> bytes:
    raw = text.encode(errors="surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _layout(metadata: Mapping[str, Any], tensors: Sequence[OutputTensor]) -> tuple[bytes, list[int]]:
    """Return the bytes before the tensors, and where each tensor starts after them."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(alignment, RawValue):
        alignment = int.from_bytes(alignment.data[4:8], "little")
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    header += [_string(key) + encode(value) for key, value in metadata.items()]
    starts, position = list[int](), 0
    for tensor in tensors:
        n_dims = len(tensor.shape)
        header.append(_string(tensor.name) + struct.pack(f"<I{n_dims}Q", n_dims, *reversed(tensor.shape)))
        header.append(struct.pack("<IQ", tensor.type_id, position))
        starts.append(position)
        position += -(-tensor.n_bytes // alignment) * alignment
    joined = b"".join(header)
    return joined + bytes(-len(joined) % alignment), starts


def _write_tensors(
    file: BinaryIO, tensors: Sequence[OutputTensor], starts: Sequence[int], written: Callable[[int], None]
) -> None:
    first, total = file.tell(), 0
    for tensor, start in zip(tensors, starts, strict=True):
        file.write(bytes(first + start - file.tell()))
        for part in tensor.parts():
            file.write(np.ascontiguousarray(part).data)
            total += part.nbytes
            written(total)
        if file.tell() != first + start + tensor.n_bytes:
            raise ModelError(f"the tensor {tensor.name!r} should have {tensor.n_bytes} bytes")
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))
