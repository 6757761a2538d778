"""NVFP4 files may have a scale for each matrix, and for its activations: the first is used, the second is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import llamafw.graph as g
from checkpoints import layers
from checkpoints.llama import EXPERTS, HEADS, KEYS, NORMS
from llamafw import ModelError
from llamafw.graph.evaluate import read_weights
from llamafw.models.gguf import read_gguf
from llamafw.testing import vocabularies
from llamafw.testing.batches import logits
from llamafw.testing.gguf_file import write_gguf
from llamafw.testing.random_tensors import random_tensor
from llamafw_plugins.architectures.llama import llama
from support.gguf_models import QUANTS
from support.numba_backend import open_backend

N_FF, N_EXPERT, N_LAYER = 128, 4, 2
TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 300, 40)]
METADATA = {
    f"llama.{key}": value for key, value in (KEYS | {"block_count": N_LAYER, "feed_forward_length": N_FF}).items()
}
ATTENTION = {**NORMS, **layers.attention(HEADS)}
DENSE = layers.model([{**ATTENTION, **layers.gated_ffn(N_FF)}] * N_LAYER)
FUSED = layers.model([{**NORMS, **layers.attention(HEADS, fused=True), **layers.gated_ffn(N_FF)}] * N_LAYER)
MIXTURE = layers.model([{**ATTENTION, **layers.experts(N_EXPERT, N_FF)}] * N_LAYER)
F32_MATRICES = ("token_embd.weight", "ffn_gate_inp.weight")

Tensors = dict[str, tuple[npt.NDArray[Any], str]]


def make_tensors(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Return random tensors: the matrices are of type NVFP4, with scales, biases and the scales of activations."""
    rng, tensors = np.random.default_rng(0), Tensors()
    for name, shape in shapes.items():
        base = name.removesuffix(".weight")
        if len(shape) == 1 or name.endswith(F32_MATRICES):
            tensors[name] = random_tensor(rng, shape, "F32", 0.1, float(len(shape) == 1)), "F32"
            continue
        tensors[name] = random_tensor(rng, shape, "NVFP4", 1.5 / shape[-1] ** 0.5), "NVFP4"
        n_scales = shape[0] if len(shape) == 3 else 1
        for companion in ("scale", "input_scale"):
            tensors[f"{base}.{companion}"] = rng.uniform(0.5, 1.5, n_scales).astype(np.float32), "F32"
        if base.endswith(("attn_q", "ffn_down")):
            tensors[f"{base}.bias"] = rng.normal(0, 0.1, shape[:-1]).astype(np.float32), "F32"
    return tensors


def fold_scales(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Return the same model without scales, which its weights, of type F32, are multiplied by."""
    folded = Tensors()
    for name, (data, type_name) in tensors.items():
        if name.endswith("scale"):
            continue
        if type_name == "NVFP4":
            weights = QUANTS[type_name].dequantize(data.reshape(-1), shapes[name])
            scale = tensors[f"{name.removesuffix('.weight')}.scale"][0]
            data = weights * scale.reshape(-1, *[1] * (len(shapes[name]) - 1))
        folded[name] = data, "F32"
    return folded


def write(path: Path, tensors: Tensors, **metadata: Any) -> Path:
    write_gguf(path, "llama", {**vocabularies.gpt2(320), **METADATA, **metadata}, tensors)
    return path


@pytest.mark.parametrize(
    ("shapes", "keys"),
    [(DENSE, {}), (FUSED, {}), (MIXTURE, {f"llama.{key}": value for key, value in EXPERTS.items()})],
    ids=["dense", "fused", "experts"],
)
def test_products_are_multiplied_by_the_scale_of_a_tensor(
    tmp_path: Path, shapes: Mapping[str, tuple[int, ...]], keys: Mapping[str, Any]
) -> None:
    tensors = make_tensors(shapes)
    folded = write(tmp_path / "folded.gguf", fold_scales(tensors, shapes), **keys)
    model = read_gguf(folded, QUANTS)
    _, expected = g.evaluate(llama(model), TOKENS, read_weights(model, QUANTS))
    assert expected is not None

    with open_backend(write(tmp_path / "m.gguf", tensors, **keys), cache_type_k="f32", cache_type_v="f32") as backend:
        assert backend.describe()["weight_types"] == ["F32", "NVFP4"] if keys else ["NVFP4"]
        got = logits(backend, TOKENS, [17, 1, 2, 20])
    error = np.sqrt(np.mean((got - expected) ** 2))
    assert error < 1e-3 * expected.std()  # activations have 15 bits


def test_a_tied_output_with_a_scale_is_refused(tmp_path: Path) -> None:
    tensors = make_tensors(DENSE)
    for name in ("weight", "scale", "input_scale"):
        tensors.pop(f"output.{name}")
    one = np.ones(1, np.float32), "F32"
    describe(tmp_path, tensors)  # without a scale, it is not refused
    with pytest.raises(ModelError, match="'token_embd.scale' is not supported"):
        describe(tmp_path, {**tensors, "token_embd.scale": one})
    with pytest.raises(ModelError, match="'output.scale' is not part of the llama architecture"):
        describe(tmp_path, {**tensors, "output.scale": one})


@pytest.mark.parametrize(
    ("name", "n", "message"),
    [
        ("blk.0.attn_q.scale", 2, r"'blk.0.attn_q.scale' has shape \(2,\) instead of \(1,\)"),
        ("blk.0.attn_q.weight.scale", 1, "'blk.0.attn_q.weight.scale' is not part of the llama architecture"),
        ("blk.0.attn_norm.scale", 1, "'blk.0.attn_norm.scale' is not supported"),
    ],
)
def test_a_scale_that_does_not_fit_is_refused(tmp_path: Path, name: str, n: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        describe(tmp_path, {**make_tensors(DENSE), name: (np.ones(n, np.float32), "F32")})


def describe(tmp_path: Path, tensors: Tensors) -> g.Graph:
    return llama(read_gguf(write(tmp_path / "described.gguf", tensors), QUANTS))
