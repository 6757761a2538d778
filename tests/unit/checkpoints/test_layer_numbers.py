"""Numbers of layers that checkpoints have as tensors, and GGUF files as metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints.apertus import CHECKPOINTS
from checkpoints.folders import conversions, write_folder
from llamafw import Model, ModelError
from llamafw.checkpoints import open_checkpoint
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

APERTUS = CHECKPOINTS[0]
BETA = "model.layers.1.mlp.act_fn.beta"


def opened(folder: Path) -> Model:
    """Return the checkpoint in a folder."""
    return open_checkpoint(folder, conversions(), read_checkpoint_tokenizer)


def test_numbers_of_all_layers_become_one_array(tmp_path: Path) -> None:
    model = opened(write_folder(APERTUS, tmp_path / "model"))
    found = model.metadata["xielu.beta"]
    assert found.dtype == np.float32
    assert found.tolist() == APERTUS.metadata["xielu.beta"]
    assert not any("xielu" in name for name in model.tensors)


@pytest.mark.parametrize(("shape", "message"), [(None, f"{BETA}' is missing"), ((2,), f"{BETA}' of shape")])
def test_a_damaged_number_is_named(tmp_path: Path, shape: tuple[int, ...] | None, message: str) -> None:
    path = write_folder(APERTUS, tmp_path / "model") / "model.safetensors"
    arrays = load_file(path)
    del arrays[BETA]
    if shape is not None:
        arrays[BETA] = np.ones(shape, np.float32)
    save_file(arrays, path)
    with pytest.raises(ModelError, match=message):
        opened(path.parent)
