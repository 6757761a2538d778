"""Write GGUF files from metadata and tensors, with the `gguf` package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter


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

    for name, (data, type_name) in tensors.items():
        raw_type = None if type_name in ("F32", "F16") else GGMLQuantizationType[type_name]
        writer.add_tensor(name, data, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
