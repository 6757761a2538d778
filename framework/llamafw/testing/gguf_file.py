"""Write GGUF files from metadata and tensors, with the `gguf` package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter

from llamafw.testing.random_tensors import block_sizes

UNKNOWN_TYPES = {"Q2_0": 42}
"""Numbers of the types that the `gguf` package does not know."""


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[npt.NDArray[np.generic], str]],
    part_tensors: int = 0,
) -> None:
    """Write a model file.

    Parameters
    ----------
    path : Path
        The file to write.
    architecture : str
        Value of ``general.architecture``.
    metadata : mapping
        Keys and values (int → uint32, float → float32, bool, str, sequence). Keys with the value None are left out.
    tensors : mapping of str to (array, str)
        Tensors by name: floats, or rows of blocks as uint8; and the name of their type.
    part_tensors : int
        Split the model into files of at most this many tensors. Their names are made from ``path``, but none of them
        has this name. 0: one file at ``path``.
    """
    writer = GGUFWriter(path, architecture, split_max_tensors=part_tensors)
    add_metadata(writer, metadata)

    for name, (data, type_name) in tensors.items():
        if type_name in UNKNOWN_TYPES:
            block_size, type_size = block_sizes(type_name)
            shape = (*data.shape[:-1], data.shape[-1] // type_size * block_size)
            # the package computes the shape of uint8 itself, from a size that it does not know
            type_id: Any = UNKNOWN_TYPES[type_name]
            writer.add_tensor(name, data.view(np.int8), shape, type_id)
            continue
        raw_type = None if type_name in ("F32", "F16") else GGMLQuantizationType[type_name]
        writer.add_tensor(name, data, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Add keys and values to a file, with the types that `write_gguf` describes."""
    for key, value in metadata.items():
        match value:
            case None:
                continue
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, list(value))
