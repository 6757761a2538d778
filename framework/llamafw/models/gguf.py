"""Open a GGUF file: metadata into memory, tensors as views of the mapped file.

Versions 2 and 3, little endian, as in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A model may lie in
several files (``split.count``), the first of which has its metadata. It checks that every tensor lies within its file
and apart from the others; what metadata and tensors mean is for tokenizers and architectures to say. The files must
not be cut short while a model is in use: reading a lost page of a mapped file ends the process, in any language.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.models.gguf_values import Cursor
from llamafw.models.overrides import apply_overrides
from llamafw.models.parts import parts
from llamafw.types import Bytes, Model, Tensor

MAGIC = b"GGUF"
MAX_DIMS = 4  # of a ggml tensor
MAX_PARTS = 99_999  # their names have five digits
DEFAULT_ALIGNMENT = 32  # bytes
SPLIT = ("split.no", "split.count", "split.tensors.count")


def read_gguf(path: Path, quants: Mapping[str, Quant], overrides: Sequence[str] = (), *, mapped: bool = True) -> Model:
    """Open a model file, and the other parts of the model if it has any.

    Parameters
    ----------
    path : Path
        The file; of several parts the first.
    quants : mapping
        The tensor types there are, by name.
    overrides : sequence of str
        ``KEY=TYPE:VALUE`` each, as `llamafw.models.overrides.apply_overrides` takes them.
    mapped : bool
        False reads the files whole. It takes longer, and then they may be overwritten while the model is in use.

    Returns
    -------
    Model
        Arrays in its metadata are lists of str, lists of arrays, or read-only numpy arrays. Bytes that are no UTF-8
        are U+FFFD in a string of its own and lone surrogates (``surrogateescape``) in the items of an array.

    Raises
    ------
    ModelError
        A file cannot be read, is no GGUF file, or is damaged; the message names the byte offset. Or a part is missing,
        or is one of another model.
    SettingsError
        An override is wrong.
    """
    path, by_type = Path(path), {quant.type_id: quant for quant in quants.values()}
    read = partial(_read, quants=by_type, mapped=mapped)
    metadata, tensors = read(path)
    if metadata.get("split.count", 1) not in (0, 1):
        tensors |= _other_parts(path, metadata, tensors, read)
    return Model(
        path=path,
        metadata=MappingProxyType(apply_overrides(metadata, overrides)),
        tensors=MappingProxyType(tensors),
        n_bytes=sum(tensor.data.size for tensor in tensors.values()),
    )


def _read(path: Path, quants: Mapping[int, Quant], mapped: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the metadata and tensors of one file."""
    data = _map(path)
    cursor = Cursor(path, data if mapped else data[:])
    n_tensors, n_values = _header(cursor)
    metadata = _metadata(cursor, n_values)
    return metadata, _tensors(cursor, n_tensors, _alignment(cursor, metadata), quants)


def _other_parts(
    path: Path,
    metadata: Mapping[str, Any],
    first: Mapping[str, Tensor],
    read: Callable[[Path], tuple[dict[str, Any], dict[str, Tensor]]],
) -> dict[str, Tensor]:
    """Return the tensors of all parts but the first, which is given."""
    number, count, n_tensors = (metadata.get(key) for key in SPLIT)
    names = parts(path.name)
    if type(count) is not int or count > MAX_PARTS:
        raise ModelError(f"{path}: split.count is {count!r:.80}; it must be a number of at most {MAX_PARTS}")
    if number != 0:
        raise ModelError(f"{path}: this is not the first of {count} parts of a model; open that one")
    if len(names) != count or names[0] != path.name:
        raise ModelError(
            f"{path}: this is the first of {count} parts of a model, but its name does not end in "
            f"-00001-of-{count:05}.gguf, so that the others cannot be found"
        )
    found: dict[str, Tensor] = {}
    for i, name in enumerate(names[1:], 1):
        part = path.with_name(name)
        if not part.exists():
            raise ModelError(f"{path}: part {i + 1} of {count} is missing: there is no file {part}")
        its, tensors = read(part)
        if [its.get(key) for key in SPLIT] != [i, count, n_tensors]:
            said = ", ".join(f"{key} {its.get(key)!r:.80}" for key in SPLIT)
            raise ModelError(f"{part}: this is not part {i + 1} of {count} of {path.name}: it has {said}")
        for twice in tensors.keys() & (first.keys() | found.keys()):
            raise ModelError(f"{part}: the tensor {twice!r} is in another part too")
        found |= tensors
    if n_tensors not in (None, len(first) + len(found)):
        raise ModelError(f"{path}: the {count} parts have {len(first) + len(found)} tensors, not {n_tensors}")
    return found


def _map(path: Path) -> mmap.mmap:
    """Return the file, mapped read-only."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}") from None
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except ValueError:  # mmap's word for a file of no bytes
        raise ModelError(f"{path}: at byte 0: the file is empty") from None


def _header(cursor: Cursor) -> tuple[int, int]:
    """Return the numbers of tensors and of metadata values."""
    magic = cursor.take(min(4, cursor.end), "the magic number")
    if magic != MAGIC:
        cursor.fail(f"this is no GGUF file: it starts with {magic!r}, not with {MAGIC!r}", 0)
    version = cursor.uint32("the version")
    if version and not version & 0xFFFF:
        cursor.fail("the file is big-endian, which is not supported", 4)
    if version == 1:
        cursor.fail("GGUF version 1 is not supported; convert the model anew", 4)
    if version not in (2, 3):
        cursor.fail(f"GGUF version {version} is not supported (2 and 3 are)", 4)
    n_tensors = cursor.count("the number of tensors", 24)  # name length, dimensions, type, offset
    n_values = cursor.count("the number of metadata values", 13)  # key length, type, one byte
    return n_tensors, n_values


def _metadata(cursor: Cursor, n: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i in range(n):
        start = cursor.position
        key = cursor.name(f"the key of metadata value {i}")
        if key in found:
            cursor.fail(f"the metadata key {key!r} occurs twice", start)
        found[key] = cursor.value(f"metadata value {key!r}")
    return found


def _alignment(cursor: Cursor, metadata: Mapping[str, Any]) -> int:
    """Return the multiple of bytes at which tensors start."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment!r:.80}; it must be a power of two")
    return alignment


def _tensors(cursor: Cursor, n: int, alignment: int, quants: Mapping[int, Quant]) -> dict[str, Tensor]:
    """Return the tensors by name, in the file's order."""
    places: dict[str, tuple[tuple[int, ...], Quant, int, int, int]] = {}  # shape, type, offset, bytes, described at
    for i in range(n):
        start = cursor.position
        name = cursor.name(f"the name of tensor {i}")
        if name in places:
            cursor.fail(f"the tensor {name!r} occurs twice", start)
        places[name] = (*_place(cursor, name, alignment, quants), start)
    base = -(-cursor.position // alignment) * alignment  # of the tensors' bytes
    data: Bytes = np.frombuffer(cursor.buffer, np.uint8)
    found, reached, before = {}, 0, ""
    for name, (shape, quant, offset, n_bytes, at) in sorted(places.items(), key=lambda item: item[1][2:4]):
        if base + offset + n_bytes > cursor.end:
            cursor.fail(
                f"tensor {name!r} takes the bytes {base + offset} to {base + offset + n_bytes}, "
                f"but the file ends at {cursor.end}: it is cut short or damaged",
                at,
            )
        if offset < reached:
            cursor.fail(f"tensor {name!r} overlaps tensor {before!r}", at)
        found[name] = Tensor(name, shape, quant.name, data[base + offset : base + offset + n_bytes])
        if n_bytes:
            reached, before = offset + n_bytes, name
    return {name: found[name] for name in places}


def _place(
    cursor: Cursor, name: str, alignment: int, quants: Mapping[int, Quant]
) -> tuple[tuple[int, ...], Quant, int, int]:
    """Read what follows a tensor's name: return shape, type, offset and size in bytes."""
    start = cursor.position
    n_dims = cursor.uint32(f"the number of dimensions of tensor {name!r}")
    if n_dims > MAX_DIMS:
        cursor.fail(f"tensor {name!r} has {n_dims} dimensions; {MAX_DIMS} are the most", start)
    sizes = [cursor.uint64(f"dimension {i} of tensor {name!r}") for i in range(n_dims)]  # innermost first
    if math.prod(sizes) >= 2**63 or max(sizes, default=0) >= 2**63:
        cursor.fail(f"tensor {name!r} has impossible dimensions {sizes}", start)
    start = cursor.position
    type_id = cursor.uint32(f"the type of tensor {name!r}")
    quant = quants.get(type_id)
    if quant is None:
        cursor.fail(f"tensor {name!r} has type {type_id}, which no plugin knows", start)
    row = sizes[0] if sizes else 1
    if row % quant.block_size:
        cursor.fail(f"tensor {name!r} has rows of {row}, no multiple of {quant.name}'s {quant.block_size}", start)
    start = cursor.position
    offset = cursor.uint64(f"the offset of tensor {name!r}")
    if offset % alignment:
        cursor.fail(f"tensor {name!r} starts at {offset}, no multiple of the alignment {alignment}", start)
    return tuple(reversed(sizes)), quant, offset, math.prod(sizes) // quant.block_size * quant.type_size
