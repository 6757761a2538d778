"""Baichuan: which models have rotated heads, and the output matrix of Baichuan 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import Checkpoint, checkpoint, layers, tensors
from checkpoints.baichuan import LAYER
from checkpoints.folders import conversions
from checkpoints.smollm3 import KEYS
from llamafw import Model, Tensor
from llamafw.checkpoints import Config, Conversion
from llamafw_plugins.architectures.baichuan import baichuan

CONFIG = {
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "model_max_length": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 64000,
}
"""The keys that all published configs have."""


def operators(checkpoint: Checkpoint) -> list[g.Value]:
    """Return the operators of a checkpoint's graph."""
    found = {
        name: Tensor(name, array.shape, "F32", array.reshape(-1).view(np.uint8))
        for name, array in tensors(checkpoint).items()
    }
    graph = baichuan(Model(Path("model.gguf"), checkpoint.metadata, found, 0))
    assert graph.logits is not None
    seen: dict[int, g.Value] = {}
    waiting: list[g.Value] = [graph.logits]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            waiting += value.inputs()
    return list(seen.values())


def converted(**values: Any) -> Conversion:
    """Return the conversion of a config."""
    return conversions()["BaichuanForCausalLM"](Config(Path("config.json"), CONFIG | values))


@pytest.mark.parametrize(("n_layer", "is_rotated"), [(32, True), (40, False)])
def test_the_number_of_layers_says_whether_heads_are_rotated(n_layer: int, is_rotated: bool) -> None:
    keys = KEYS | {"block_count": n_layer, "attention.head_count_kv": 4}
    found = operators(checkpoint("baichuan-layers", "baichuan", keys, layers.model([LAYER] * n_layer)))
    attention = [value for value in found if isinstance(value, g.Attention)]
    assert len(attention) == n_layer
    assert all(bool(value.alibi) is not is_rotated for value in attention)
    assert any(isinstance(value, g.Rope) for value in found) is is_rotated


@pytest.mark.parametrize(
    ("values", "bias"),
    [
        ({"max_position_embeddings": 4096}, None),  # 7B
        ({"num_hidden_layers": 40}, 8.0),  # 13B
        ({"num_hidden_layers": 40, "max_position_embeddings": 4096}, 8.0),
    ],
)
def test_conversion_says_whether_heads_are_rotated(values: dict[str, Any], bias: float | None) -> None:
    conversion = converted(**values)
    assert conversion.metadata["attention.max_alibi_bias"] == bias
    assert conversion.metadata["context_length"] == 4096


@pytest.mark.parametrize(("n_vocab", "is_unit"), [(64000, False), (125696, True)])
def test_only_baichuan_2_has_output_rows_of_length_1(n_vocab: int, is_unit: bool) -> None:
    rule = next(
        one for one in converted(vocab_size=n_vocab).rules if one.match("lm_head.weight", gguf=False) is not None
    )
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    (result,) = rule.forward([rows])
    np.testing.assert_allclose(result, np.array([[0.6, 0.8], [0, 0]]) if is_unit else rows, rtol=1e-6)
    assert result.dtype == np.float32
