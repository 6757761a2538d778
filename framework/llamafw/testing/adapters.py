"""Write adapters with random weights as GGUF files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw.testing.gguf_file import write_gguf

Arrays = dict[str, npt.NDArray[np.float32]]


def random_factors(shapes: Mapping[str, tuple[int, ...]], rank: int, seed: int) -> Arrays:
    """Return the tensors of a LoRA adapter for some matrices, ``NAME.lora_a`` and ``NAME.lora_b``.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The names and shapes of the matrices.
    rank : int
        The rank of all of them.
    seed : int
        Seed of the numbers.
    """
    tensors: Arrays = {}
    for name, (*front, n_out, n_in) in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        a, b = (*front, rank, n_in), (*front, n_out, rank)
        if name == "token_embd.weight":
            a, b = (n_out, rank), (n_in, rank)
        tensors[f"{name}.lora_a"] = rng.normal(0, n_in**-0.5, a).astype(np.float32)
        tensors[f"{name}.lora_b"] = rng.normal(0, rank**-0.5, b).astype(np.float32)
    return tensors


def write_lora(
    path: Path,
    factors: Mapping[str, npt.NDArray[Any]],
    *,
    alpha: float = 6.0,
    architecture: str = "llama",
    type_name: str = "F32",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a LoRA adapter as GGUF file; return its path.

    Parameters
    ----------
    path : Path
        The file to write.
    factors : mapping of str to array
        The tensors, ``NAME.lora_a`` and ``NAME.lora_b``.
    alpha : float
        The scale, multiplied by the rank.
    architecture : str
        That of the model.
    type_name : str
        F32 or F16, the type of all tensors.
    metadata : mapping, optional
        Keys to add or replace. A value of None removes the key.
    """
    keys = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    kind = {"F32": np.float32, "F16": np.float16}[type_name]
    arrays = {name: (array.astype(kind), type_name) for name, array in factors.items()}
    write_gguf(path, architecture, {**keys, **(metadata or {})}, arrays)
    return path


def write_control_vector(path: Path, directions: Mapping[int, npt.NDArray[np.float32]]) -> Path:
    """Write a control vector with a direction for some layers; return its path."""
    arrays = {f"direction.{layer}": (array, "F32") for layer, array in directions.items()}
    write_gguf(path, "controlvector", {"controlvector.layer_count": len(directions)}, arrays)
    return path
