"""Checkpoints loaded from folders against the results that other implementations compute for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import Checkpoint, all_checkpoints, golden, has_prediction, tensors
from checkpoints.folders import config_path, conversions, write_folder
from llamafw.checkpoints import open_checkpoint
from llamafw.plugins import Plugins
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer
from support.golden_results import assert_golden, assert_golden_predictions

OTHER_ARCHITECTURES = {"mistral3-plain-tied": "llama"}
"""Checkpoints that a conversion has another architecture for, with the same graph."""

WITH_IMAGES = {"Mistral3ForConditionalGeneration"}
"""Classes whose part for texts is one of another class: see test_with_images.py."""

CHECKPOINTS = [one for one in all_checkpoints() if config_path(one.name).exists()]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.name)
def test_results_of_a_folder_match_another_implementation(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plugins = Plugins()
    model = open_checkpoint(write_folder(checkpoint, tmp_path / "model"), conversions(), read_checkpoint_tokenizer)
    if checkpoint.architecture == "gemma4":  # its factors are random; those of a config are 1 for what is rotated
        factors = tensors(checkpoint)["rope_freqs.weight"]
        tensor = replace(model.tensors["rope_freqs.weight"], data=factors.view(np.uint8))
        model = replace(model, tensors={**model.tensors, "rope_freqs.weight": tensor})
    graph = plugins.registry("architecture")[model.metadata["general.architecture"]](model)
    assert model.metadata["general.architecture"] == OTHER_ARCHITECTURES.get(checkpoint.name, checkpoint.architecture)
    for text in golden(checkpoint.name):
        assert_golden(checkpoint, model, graph, plugins.registry("quant"), text)
    if has_prediction(checkpoint):
        assert_golden_predictions(checkpoint, model, graph, plugins.registry("quant"))
    else:
        assert graph.prediction is None


def test_every_conversion_has_a_checkpoint() -> None:
    """Names of one class that share a function are proven by one of them."""
    stored = [json.loads(config_path(one.name).read_text("utf-8"))["architectures"] for one in CHECKPOINTS]
    proven = {conversions()[name] for names in stored for name in names}
    unproven = {name for name, convert in conversions().items() if convert not in proven}
    assert unproven <= WITH_IMAGES, f"no checkpoint has a config of {min(unproven - WITH_IMAGES)}"
