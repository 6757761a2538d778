"""The dense layers after pooling of a checkpoint for sentence-transformers, by GGUF's names.

Their tensors are in folders of their own, such as ``2_Dense``.
"""

from __future__ import annotations

from pathlib import Path

from llamafw.checkpoints.conversion import Conversion, to_gguf
from llamafw.checkpoints.rules import rule
from llamafw.checkpoints.safetensors_files import read_safetensors
from llamafw.checkpoints.sentence_transformers import DENSE_NAMES, read_sentence_transformer
from llamafw.errors import ModelError
from llamafw.types import Tensor


def read_dense_tensors(folder: Path, *, mapped: bool = True) -> dict[str, Tensor]:
    """Return the tensors ``dense_2.weight`` and so on; none if the checkpoint has no dense layers.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    mapped : bool
        False reads the files into memory.

    Raises
    ------
    ModelError
        There are more layers than GGUF has names for, one has an activation function, or a tensor does not fit.
    """
    layers = read_sentence_transformer(folder).dense
    if len(layers) > len(DENSE_NAMES):
        raise ModelError(f"{folder / 'modules.json'}: there are {len(layers)} dense layers, and GGUF has two")
    found: dict[str, Tensor] = {}
    for name, layer in zip(DENSE_NAMES, layers, strict=False):
        path = folder / layer.folder
        if layer.activation != "identity":
            raise ModelError(
                f"{path / 'config.json'}: activation_function is {layer.activation}, which GGUF cannot say"
            )
        rules = [rule(f"{name}.{part}", f"linear.{part}") for part in ("weight", "bias")]
        tensors = to_gguf(Conversion("", {}, rules), read_safetensors(path, mapped=mapped), "dense layer", path)
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.shape != (layer.n_out, layer.n_in):
            raise ModelError(f"{path}: linear.weight does not have the shape {(layer.n_out, layer.n_in)} of the config")
        found |= tensors
    return found
