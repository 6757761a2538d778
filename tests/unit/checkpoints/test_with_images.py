"""Of checkpoints for texts and images, the part for texts is opened, in both forms of names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import all_checkpoints
from checkpoints.folders import conversions, write_folder
from llamafw.checkpoints import open_checkpoint
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
CLASSES = {  # checkpoint of a text model → class with images
    "gemma3-27b": "Gemma3ForConditionalGeneration",
    "gemma4": "Gemma4ForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "mistral3-plain-tied": "Mistral3ForConditionalGeneration",
    "mistral4": "Mistral3ForConditionalGeneration",
    "qwen35": "Qwen3_5ForConditionalGeneration",
    "qwen35moe": "Qwen3_5MoeForConditionalGeneration",
}
OLD_NAMES = {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
NEW_NAMES = {"model.": "model.language_model.", "lm_head.": "lm_head."}


@pytest.mark.parametrize("names", [OLD_NAMES, NEW_NAMES], ids=["old", "new"])
@pytest.mark.parametrize("name", CLASSES)
def test_text_part_is_opened(tmp_path: Path, name: str, names: dict[str, str]) -> None:
    folder = write_folder(CHECKPOINTS[name], tmp_path / "model")
    plain = open_checkpoint(folder, conversions(), read_checkpoint_tokenizer)
    text = json.loads((folder / "config.json").read_text("utf-8"))
    config = {"architectures": [CLASSES[name]], "text_config": text, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    arrays = {"vision_tower.patch_conv.weight": np.zeros((2, 2)), "multi_modal_projector.linear_1.weight": np.zeros(2)}
    for original, array in load_file(folder / "model.safetensors").items():
        beginning = next(one for one in names if original.startswith(one))
        arrays[names[beginning] + original.removeprefix(beginning)] = array
    save_file(arrays, folder / "model.safetensors")

    model = open_checkpoint(folder, conversions(), read_checkpoint_tokenizer)
    assert model.tensors.keys() == plain.tensors.keys()
    for key, tensor in plain.tensors.items():
        np.testing.assert_array_equal(model.tensors[key].data, tensor.data)
    assert repr(dict(model.metadata)) == repr(dict(plain.metadata))
