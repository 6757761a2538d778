"""Opens the safetensors files of a checkpoint, memory-mapped.

The library `safetensors` reads and checks the headers. Numbers stay in the files until they are used.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from llamafw.checkpoints.config import read_json
from llamafw.checkpoints.tensors import DTYPES, CheckpointTensor
from llamafw.errors import ModelError
from llamafw.types import Bytes, Tensor

INDEX = "model.safetensors.index.json"


def read_safetensors(folder: Path, *, mapped: bool = True) -> dict[str, CheckpointTensor]:
    """Return all tensors of a checkpoint by name.

    Parameters
    ----------
    folder : Path
        The checkpoint: one or more ``*.safetensors``; with ``model.safetensors.index.json`` those that it names.
    mapped : bool
        False reads the files into memory.

    Raises
    ------
    ModelError
        A file is missing, damaged or cannot be read, or has a tensor that another one has.
    """
    found: dict[str, CheckpointTensor] = {}
    for path in _files(folder):
        for name, tensor in _read_file(path, mapped).items():
            if name in found:
                raise ModelError(f"{path}: the tensor {name!r} is in {found[name].path.name} too")
            found[name] = tensor
    if missing := sorted(_listed(folder).keys() - found.keys()):
        raise ModelError(f"{folder / INDEX}: the tensor {missing[0]!r} is in no file")
    return found


def _files(folder: Path) -> list[Path]:
    """Return the files of the checkpoint; those that an index lists, because others may be copies in another form."""
    if listed := _listed(folder):
        paths = [folder / Path(name).name for name in sorted(set(listed.values()))]
    else:
        single = folder / "model.safetensors"
        paths = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not paths:
        hint = "; only safetensors files can be read" if any(folder.glob("*.bin")) else ""
        raise ModelError(f"{folder} has no *.safetensors file{hint}")
    if missing := [path for path in paths if not path.is_file()]:
        raise ModelError(f"{missing[0]} does not exist, but {INDEX} names it")
    return paths


def _listed(folder: Path) -> dict[str, str]:
    """Return the file of each tensor, as the index lists them; nothing without an index."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ModelError(f"{path}: weight_map is missing, or not an object of file names")
    return listed


def _read_file(path: Path, mapped: bool) -> dict[str, CheckpointTensor]:
    """Return the tensors of one file."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, CheckpointTensor] = {}
    try:
        with safe_open(path, "numpy") as file:
            entries: list[tuple[str, str, list[int]]] = []
            for name in file.offset_keys():  # in the order of the file, without gaps
                part = file.get_slice(name)
                entries.append((name, part.get_dtype(), part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from None

    sizes = [_n_bytes(path, *entry) for entry in entries]
    data = _map(path, mapped) if sum(sizes) else np.empty(0, np.uint8)
    end = len(data) - sum(sizes)
    for (name, dtype, shape), size in zip(entries, sizes, strict=True):
        start, end = end, end + size
        found[name] = _tensor(name, dtype, tuple(shape), path, data[start:end])
    return found


def _n_bytes(path: Path, name: str, dtype: str, shape: list[int]) -> int:
    if dtype not in DTYPES:
        raise ModelError(f"{path}: the tensor {name!r} has numbers of type {dtype}, which is not supported")
    return math.prod(shape) * int(np.dtype(DTYPES[dtype]).itemsize)


def _tensor(name: str, dtype: str, shape: tuple[int, ...], path: Path, data: Bytes) -> CheckpointTensor:
    kind: np.dtype[Any] = np.dtype(DTYPES[dtype])
    stored = Tensor(name, shape, dtype, data)
    return CheckpointTensor(name, shape, kind, path, (stored,), lambda: data.view(kind).reshape(shape))


def _map(path: Path, mapped: bool) -> Bytes:
    """Return the bytes of a file."""
    try:
        with path.open("rb") as file:
            if not mapped:
                return np.fromfile(file, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
