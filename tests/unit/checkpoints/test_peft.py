"""Models with adapters of PEFT have the logits that peft computes for them, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints import all_checkpoints
from checkpoints.folders import conversions, write_folder
from checkpoints.make_adapters import ALPHA, NAMES, RANK, adapter_path, adapter_tensor
from llamafw import graph as g
from llamafw.checkpoints import open_checkpoint
from llamafw.models.adapters import adapt_model, read_lora
from llamafw.plugins import Plugins
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

CHECKPOINTS = {one.name: one for one in all_checkpoints()}


def write_adapter(name: str, base: Path, folder: Path) -> Path:
    folder.mkdir()
    with np.load(adapter_path(name)) as stored:
        shapes = {str(key): tuple(shape) for key, shape in zip(stored["names"], stored["shapes"], strict=True)}
    save_file({key: adapter_tensor(key, shape) for key, shape in shapes.items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_peft(name: str, tmp_path: Path) -> None:
    base = write_folder(CHECKPOINTS[name], tmp_path / "base")
    folder = write_adapter(name, base, tmp_path / "adapter")
    plugins = Plugins()
    quants = plugins.registry("quant")
    model = open_checkpoint(base, conversions(), read_checkpoint_tokenizer)
    graph = plugins.registry("architecture")[model.metadata["general.architecture"]](model)
    adaptation, with_stacks = adapt_model(model, graph, [read_lora(folder, model, quants, conversions())], quants)

    scales = np.array([factor for _, factor in adaptation.scales])
    with np.load(adapter_path(name)) as stored:
        expected = SimpleNamespace(tokens=stored["tokens"], logits=stored["logits"])
    read = g.read_weights(with_stacks, quants)
    _, logits = g.evaluate(adaptation.graph, expected.tokens, read, scales=scales)
    _, without = g.evaluate(graph, expected.tokens, read)
    assert logits is not None
    assert without is not None
    np.testing.assert_allclose(logits[-2:], expected.logits, rtol=0, atol=1e-5 * np.abs(expected.logits).max())
    assert np.abs(without[-2:] - expected.logits).max() > 0.1
