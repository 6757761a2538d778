"""The gating of DeepSeek-V2's relatives whose files do not name it."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import layers
from checkpoints.deepseek2 import KEYS, layer
from llamafw import Model, Tensor
from llamafw_plugins.architectures.deepseek2 import deepseek2


def model_of(n_layer: int, n_vocab: int) -> Model:
    """Return a model of layers with experts, without the numbers of its tensors."""
    shapes = layers.model([layer(lora_q=False)] * n_layer, tied=True)
    shapes["token_embd.weight"] = (n_vocab, layers.N_EMBD)
    keys = KEYS | {"block_count": n_layer, "leading_dense_block_count": 0}
    tensors = {name: Tensor(name, shape, "F32", np.zeros(0, np.uint8)) for name, shape in shapes.items()}
    metadata = {f"deepseek2.{key}": value for key, value in keys.items()}
    return Model(Path("model.gguf"), MappingProxyType(metadata), MappingProxyType(tensors), 0)


@pytest.mark.parametrize(
    ("n_layer", "n_vocab", "is_sigmoid"),
    [(47, 154880, True), (47, 102400, False), (27, 154880, False), (27, 102400, False)],
)
def test_only_glm_4_7_flash_is_sigmoid_without_a_key(n_layer: int, n_vocab: int, is_sigmoid: bool) -> None:
    graph = deepseek2(model_of(n_layer, n_vocab))
    functions = {value.function for value in graph if isinstance(value, g.Activation)}
    assert functions == ({"silu", "sigmoid"} if is_sigmoid else {"silu"})
    assert any(isinstance(value, g.Softmax) for value in graph) != is_sigmoid
