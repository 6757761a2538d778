"""The rules' names against the table of names that llama.cpp's converter uses."""

from __future__ import annotations

import json

import gguf
import pytest

from checkpoints import Checkpoint, all_checkpoints
from checkpoints.folders import config_path, conversions
from llamafw.checkpoints import Config, find_conversion

CHECKPOINTS = [one for one in all_checkpoints() if config_path(one.name).exists()]
ARCHITECTURES = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}


OTHER_NAMES = {
    "granitehybrid": ("model.layers.1.shared_mlp.output_linear.weight",),
    "bert-reranker": ("classifier.weight",),
    "modern-bert-reranker": ("classifier.weight",),
    "neo-bert-reranker": ("classifier.weight",),
}
"""Names that the converter changes before it looks into the table: without experts, the shared block is a plain one; a
classifier of a single layer is the output of a head.
"""


def _stem(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.name)
def test_names_are_those_of_gguf(checkpoint: Checkpoint) -> None:
    """Only rules for one tensor on both sides are compared: the converter splits and joins before it renames."""
    path = config_path(checkpoint.name)
    _, conversion = find_conversion(Config(path, json.loads(path.read_text("utf-8"))), conversions())
    if conversion.architecture not in ARCHITECTURES:
        pytest.skip("the gguf package does not know the architecture")
    table = gguf.get_tensor_name_map(ARCHITECTURES[conversion.architecture], 2)
    n_known = 0
    for rule in conversion.rules:
        if len(rule.targets) > 1 or len(rule.sources) > 1 or "{e}" in rule.sources[0]:
            continue
        ours, source = (
            name.replace("{i}", "1").replace(".{part}", ".weight") for name in (rule.targets[0], rule.sources[0])
        )
        theirs = table.get_name(source, try_suffixes=(".weight", ".bias"))
        if theirs is not None and source not in OTHER_NAMES.get(checkpoint.name, ()):
            n_known += 1
            assert _stem(theirs) == _stem(ours), source
    assert n_known > 3
