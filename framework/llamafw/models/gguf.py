"""Read GGUF files: metadata into memory, tensors as views of the memory-mapped file.

Supported are versions 2 and 3, little endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A model may
be split into several files (``split.count``); the first one has the metadata. Every tensor must be within its file and
overlap no other tensor. Tokenizers and architectures interpret metadata and tensors.

Do not truncate a file while its model is in use: the operating system ends a process that reads a missing page.
"""

from __future__ import annotations

import math
import mmap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.models.gguf_values import Cursor, RawValue
from llamafw.models.overrides import apply_overrides
from llamafw.models.parts import part_names
from llamafw.models.tensor_types import QuantsById, byte_size, choose_quant, quants_by_id
from llamafw.types import Bytes, Model, Tensor

MAGIC = b"GGUF"
MAX_DIMS = 4  # dimensions of a ggml tensor
MAX_PARTS = 99_999  # file names have five digits
DEFAULT_ALIGNMENT = 32  # bytes
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


def read_gguf(path: Path, quants: Mapping[str, Quant], overrides: Sequence[str] = (), *, mapped: bool = True) -> Model:
    """Open a model, with all its parts.

    Parameters
    ----------
    path : Path
        The file, or the first part of a model in several parts.
    quants : mapping
        All tensor types, by name.
    overrides : sequence of str
        Changes to the metadata: each is ``KEY=TYPE:VALUE``, as in `llamafw.models.overrides`.
    mapped : bool
        False reads the files into memory. That takes longer, but the files may change while the model is in use.

    Returns
    -------
    Model
        Arrays in its metadata are lists of str, lists of arrays, or read-only numpy arrays. Invalid UTF-8 becomes
        U+FFFD in single strings, and lone surrogates (``surrogateescape``) in arrays of strings.

    Raises
    ------
    ModelError
        A file cannot be read, is not a GGUF file, or is damaged; the message has the byte offset. A part is missing or
        belongs to another model.
    SettingsError
        An override is invalid.
    """
    path = Path(path)
    read = partial(_read_file, quants=quants_by_id(quants.values()), mapped=mapped)
    metadata, tensors = read(path)
    if metadata.get("split.count", 1) not in (0, 1):
        tensors |= _read_other_parts(path, metadata, tensors, read)
    return Model(
        path=path,
        metadata=MappingProxyType(apply_overrides(metadata, overrides)),
        tensors=MappingProxyType(tensors),
        n_bytes=sum(tensor.data.size for tensor in tensors.values()),
    )


def read_raw_metadata(path: Path) -> dict[str, RawValue]:
    """Return the metadata of one file as bytes, to be copied into another file.

    Raises
    ------
    ModelError
        The file cannot be read, is not a GGUF file, or is damaged.
    """
    cursor = Cursor(path, _map_file(path))
    _, n_values = _read_header(cursor)
    metadata: dict[str, RawValue] = {}
    for i in range(n_values):
        key = cursor.name(f"the key of metadata value {i}")
        start = cursor.position
        cursor.value(f"metadata value {key!r}")
        metadata[key] = RawValue(cursor.buffer[start : cursor.position])
    return metadata


def _read_file(path: Path, quants: QuantsById, mapped: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the metadata and tensors of one file."""
    data = _map_file(path)
    cursor = Cursor(path, data if mapped else data[:])
    n_tensors, n_values = _read_header(cursor)
    metadata = _read_metadata(cursor, n_values)
    _check_version(cursor, metadata)
    return metadata, _read_tensors(cursor, n_tensors, _alignment(cursor, metadata), quants)


def _read_other_parts(
    path: Path,
    metadata: Mapping[str, Any],
    first: Mapping[str, Tensor],
    read: Callable[[Path], tuple[dict[str, Any], dict[str, Tensor]]],
) -> dict[str, Tensor]:
    """Return the tensors of all parts except the first, given the first part's metadata and tensors."""
    number, count, n_tensors = (metadata.get(key) for key in SPLIT_KEYS)
    names = part_names(path.name)
    if type(count) is not int or count > MAX_PARTS:
        raise ModelError(f"{path}: split.count is {count!r:.80}; it must be an integer of at most {MAX_PARTS}")
    if number != 0:
        raise ModelError(f"{path}: this is not the first of the {count} parts of a model; open the first one")
    if len(names) != count or names[0] != path.name:
        raise ModelError(
            f"{path}: this is the first of {count} parts of a model; its name must end in -00001-of-{count:05}.gguf, "
            "or the other parts cannot be found"
        )

    others: dict[str, Tensor] = {}
    for i, name in enumerate(names[1:], 1):
        part = path.with_name(name)
        if not part.exists():
            raise ModelError(f"{path}: part {i + 1} of {count} is missing: {part} does not exist")
        part_metadata, tensors = read(part)
        if [part_metadata.get(key) for key in SPLIT_KEYS] != [i, count, n_tensors]:
            values = ", ".join(f"{key} {part_metadata.get(key)!r:.80}" for key in SPLIT_KEYS)
            raise ModelError(f"{part}: this is not part {i + 1} of {count} of {path.name}: it has {values}")
        for duplicate in tensors.keys() & (first.keys() | others.keys()):
            raise ModelError(f"{part}: the tensor {duplicate!r} is in another part too")
        others |= tensors
    if n_tensors not in (None, len(first) + len(others)):
        raise ModelError(f"{path}: the {count} parts have {len(first) + len(others)} tensors, not {n_tensors}")
    return others


def _map_file(path: Path) -> mmap.mmap:
    """Map a file into memory, read-only."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except ValueError:  # raised by mmap for an empty file
        raise ModelError(f"{path}: at byte 0: the file is empty") from None


def _read_header(cursor: Cursor) -> tuple[int, int]:
    """Return the number of tensors and the number of metadata values."""
    magic = cursor.take(min(4, cursor.end), "the magic number")
    if magic != MAGIC:
        # without what it starts with: a client may name a file that it must not read
        cursor.fail(f"this is not a GGUF file: it does not start with {MAGIC!r}", 0)
    version = cursor.uint32("the version")
    if version and not version & 0xFFFF:
        cursor.fail("the file is big-endian, which is not supported", 4)
    if version == 1:
        cursor.fail("GGUF version 1 is not supported; convert the model again", 4)
    if version not in (2, 3):
        cursor.fail(f"GGUF version {version} is not supported; versions 2 and 3 are", 4)
    n_tensors = cursor.count("the number of tensors", 24)  # name length, number of dimensions, type, offset
    n_values = cursor.count("the number of metadata values", 13)  # key length, value type, and one byte
    return n_tensors, n_values


def _read_metadata(cursor: Cursor, n: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for i in range(n):
        start = cursor.position
        key = cursor.name(f"the key of metadata value {i}")
        if key in metadata:
            cursor.fail(f"the metadata key {key!r} occurs twice", start)
        metadata[key] = cursor.value(f"metadata value {key!r}")
    return metadata


def _check_version(cursor: Cursor, metadata: Mapping[str, Any]) -> None:
    """Refuse files whose quantised tensors have layouts that no number of a type means, and which name them here."""
    version = metadata.get("general.quantization_version", 0)
    if type(version) is not int:
        cursor.fail(f"general.quantization_version is {version!r:.80}; it must be an integer")


def _alignment(cursor: Cursor, metadata: Mapping[str, Any]) -> int:
    """Return the alignment of tensors in bytes."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment!r:.80}; it must be a power of two")
    return alignment


@dataclass(frozen=True, slots=True)
class _Description:
    """The description of a tensor in the file."""

    shape: tuple[int, ...]
    type_id: int
    offset: int  # bytes from the start of the tensor data
    position: int  # of the description in the file
    type_position: int  # of the type's number


def _read_tensors(cursor: Cursor, n: int, alignment: int, quants: QuantsById) -> dict[str, Tensor]:
    """Return the tensors by name, in the order of the file."""
    descriptions: dict[str, _Description] = {}
    for i in range(n):
        start = cursor.position
        name = cursor.name(f"the name of tensor {i}")
        if name in descriptions:
            cursor.fail(f"the tensor {name!r} occurs twice", start)
        descriptions[name] = _read_description(cursor, name, start, alignment, quants)

    data_start = -(-cursor.position // alignment) * alignment
    types = _choose_types(descriptions, cursor.end - data_start, alignment, quants)
    sizes = {name: _size(cursor, name, tensor, types[tensor.type_id]) for name, tensor in descriptions.items()}
    data: Bytes = np.frombuffer(cursor.buffer, np.uint8)
    tensors: dict[str, Tensor] = {}
    previous, previous_end = "", 0
    for name in sorted(descriptions, key=lambda name: (descriptions[name].offset, sizes[name])):
        tensor = descriptions[name]
        start = data_start + tensor.offset
        end = start + sizes[name]
        if end > cursor.end:
            cursor.fail(
                f"tensor {name!r} takes the bytes {start} to {end}, but the file ends at {cursor.end}: it is "
                "truncated or damaged",
                tensor.position,
            )
        if start < previous_end:
            cursor.fail(f"tensor {name!r} overlaps tensor {previous!r}", tensor.position)
        tensors[name] = Tensor(name, tensor.shape, types[tensor.type_id].name, data[start:end])
        if sizes[name]:
            previous, previous_end = name, end
    return {name: tensors[name] for name in descriptions}


def _read_description(cursor: Cursor, name: str, position: int, alignment: int, quants: QuantsById) -> _Description:
    """Read the rest of a tensor's description, which follows its name."""
    start = cursor.position
    n_dims = cursor.uint32(f"the number of dimensions of tensor {name!r}")
    if n_dims > MAX_DIMS:
        cursor.fail(f"tensor {name!r} has {n_dims} dimensions; the maximum is {MAX_DIMS}", start)
    sizes = [cursor.uint64(f"dimension {i} of tensor {name!r}") for i in range(n_dims)]  # innermost first
    if math.prod(sizes) >= 2**63 or max(sizes, default=0) >= 2**63:
        cursor.fail(f"tensor {name!r} has impossible dimensions {sizes}", start)

    type_position = cursor.position
    type_id = cursor.uint32(f"the type of tensor {name!r}")
    if type_id not in quants:
        cursor.fail(f"tensor {name!r} has the type {type_id}, which no plugin supports", type_position)

    start = cursor.position
    offset = cursor.uint64(f"the offset of tensor {name!r}")
    if offset % alignment:
        cursor.fail(f"tensor {name!r} starts at {offset}, not at a multiple of the alignment {alignment}", start)
    return _Description(tuple(reversed(sizes)), type_id, offset, position, type_position)


def _choose_types(
    descriptions: Mapping[str, _Description], n_bytes: int, alignment: int, quants: QuantsById
) -> dict[int, Quant]:
    """Return the type that each number means in a file with ``n_bytes`` of tensors."""
    starts = sorted({tensor.offset for tensor in descriptions.values()})
    following = dict(zip(starts, [*starts[1:], n_bytes], strict=False))
    spans: dict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    for tensor in descriptions.values():
        spans[tensor.type_id].append((tensor.shape, following[tensor.offset] - tensor.offset))
    return {type_id: choose_quant(quants[type_id], found, alignment) for type_id, found in spans.items()}


def _size(cursor: Cursor, name: str, tensor: _Description, quant: Quant) -> int:
    """Return the size of a tensor in bytes."""
    n_bytes = byte_size(tensor.shape, quant)
    if n_bytes is None:
        n_in = tensor.shape[-1]
        message = f"tensor {name!r} has rows of {n_in} weights, not a multiple of {quant.name}'s {quant.block_size}"
        cursor.fail(message, tensor.type_position)
    return n_bytes
