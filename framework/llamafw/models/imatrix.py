"""Importance matrices: files with the mean squares of what each matrix of a model is multiplied with.

The format is that of llama.cpp: a GGUF file with the tensors ``NAME.in_sum2``, sums of squares, and ``NAME.counts``,
how many rows were summed (https://github.com/ggml-org/llama.cpp/tree/master/tools/imatrix). Older ``.dat`` files can
be read too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.models.gguf import MAGIC, read_gguf
from llamafw.models.gguf_writer import OutputTensor, write_gguf
from llamafw.types import Bytes, Floats

_F32 = 0  # the type's number
_MAX_NAME = 2**16  # bytes of a tensor's name


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An importance matrix."""

    path: Path
    entries: Mapping[str, Floats]  # name of a tensor to the importance of its columns, flat, of one matrix or several
    datasets: tuple[str, ...]  # names of the texts that it was computed from
    n_chunks: int  # parts of the texts; 0: unknown

    def find(self, name: str, shape: tuple[int, ...]) -> Floats | None:
        """Return the importance for a tensor, ``(n_matrices, n_columns)``; None: the file has nothing for it.

        Raises
        ------
        ModelError
            The file has numbers for a tensor of another shape.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        n_columns, n_matrices = shape[-1], int(np.prod(shape[:-2]))
        if entry.size != n_columns * n_matrices:
            raise ModelError(
                f"{self.path}: {name!r} has {entry.size} numbers, but the tensor has {n_matrices} × {n_columns} "
                "columns; the importance matrix belongs to another model"
            )
        return entry.reshape(n_matrices, n_columns)


@dataclass(frozen=True, slots=True)
class Sums:
    """What is summed for a tensor while a model runs."""

    squares: Floats  # (n_matrices, n_columns)
    counts: Floats  # (n_matrices,), or (1,) if all matrices see the same number of rows


def read_imatrix(path: Path, quants: Mapping[str, Quant]) -> Imatrix:
    """Read an importance matrix.

    Raises
    ------
    ModelError
        The file cannot be read, or is not an importance matrix.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    found = _read_gguf(path, quants) if magic == MAGIC else _read_dat(path)
    for name, entry in found.entries.items():
        if not np.isfinite(entry).all() or entry.min(initial=0) < 0:
            raise ModelError(f"{path}: {name!r} has numbers that are not finite, or negative")
    return found


def write_imatrix(
    path: Path, sums: Mapping[str, Sums], dataset: str, n_chunks: int, n_ctx: int, *, force: bool
) -> None:
    """Write an importance matrix.

    Parameters
    ----------
    path : Path
        The file.
    sums : mapping of str to Sums
        The sums for each tensor, by its name.
    dataset : str
        Name of the text.
    n_chunks : int
        Parts that the text was divided into.
    n_ctx : int
        Tokens per part.
    force : bool
        Replace the file if it exists.

    Raises
    ------
    ModelError
        The file exists, or cannot be written.
    """
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": [dataset],
        "imatrix.chunk_count": n_chunks,
        "imatrix.chunk_size": n_ctx,
    }
    tensors = []
    for name in sorted(sums):
        squares, counts = sums[name].squares, sums[name].counts[:, None]
        if len(counts) == 1:
            squares = squares.reshape(1, -1)
        for suffix, array in (("in_sum2", squares), ("counts", counts)):
            data = np.ascontiguousarray(array, "<f4")
            tensors.append(OutputTensor(f"{name}.{suffix}", data.shape, _F32, data.nbytes, partial(_bytes_of, data)))
    write_gguf(path, metadata, tensors, force=force)


def _bytes_of(array: Floats) -> list[Bytes]:
    return [array.reshape(-1).view(np.uint8)]


def _read_gguf(path: Path, quants: Mapping[str, Quant]) -> Imatrix:
    model = read_gguf(path, quants)
    arrays = {name: tensor.data.view("<f4") for name, tensor in model.tensors.items() if tensor.type_name == "F32"}
    entries: dict[str, Floats] = {}
    for key, sums in arrays.items():
        name, _, suffix = key.rpartition(".")
        if suffix != "in_sum2":
            continue
        counts = arrays.get(f"{name}.counts")
        if counts is None or not counts.size or sums.size % counts.size:
            raise ModelError(f"{path}: the counts of {name!r} are missing, or do not fit its sums")
        rows = sums.reshape(counts.size, -1)
        known = counts[:, None] > 0  # experts that the text did not need have no rows
        entries[name] = np.where(known, rows / np.where(known, counts[:, None], 1), 1).astype(np.float32).reshape(-1)
    if not entries:
        raise ModelError(f"{path} is not an importance matrix: it has no tensors called NAME.in_sum2")
    datasets = model.metadata.get("imatrix.datasets", [])
    n_chunks = model.metadata.get("imatrix.chunk_count", 0)
    return Imatrix(path, entries, tuple(map(str, datasets)), n_chunks if isinstance(n_chunks, int) else 0)


def _read_dat(path: Path) -> Imatrix:
    """Read the older format: a count, and for each tensor its name, the number of chunks, and the sums."""
    data = path.read_bytes()
    position = 0

    def fail() -> NoReturn:
        raise ModelError(f"{path} is not an importance matrix, or damaged at byte {position}")

    def integer(largest: int) -> int:
        nonlocal position
        if position + 4 > len(data):
            fail()
        (number,) = struct.unpack_from("<i", data, position)
        if not 0 <= number <= largest:
            fail()
        position += 4
        return int(number)

    def take(n: int) -> bytes:
        nonlocal position
        if position + n > len(data):
            fail()
        position += n
        return data[position - n : position]

    entries: dict[str, Floats] = {}
    for _ in range(integer(len(data))):
        name = take(integer(_MAX_NAME)).decode(errors="replace")
        n_calls = max(integer(2**31 - 1), 1)
        values: Floats = np.frombuffer(take(4 * integer(len(data))), "<f4").astype(np.float32)
        entries[name] = values / np.float32(n_calls)
    if not entries:
        fail()
    if position == len(data):
        return Imatrix(path, entries, (), 0)
    n_chunks = integer(2**31 - 1)
    return Imatrix(path, entries, (take(integer(_MAX_NAME)).decode(errors="replace"),), n_chunks)
