"""Checkpoints with blocks for multi-token prediction: what ``llamafw convert`` writes for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import Shapes, layers, qwen3next, qwen35, qwen35moe, tensors
from checkpoints.folders import config_path, write_folder
from llamafw.cli.main import main
from llamafw.engine.components import build_graph
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from support.predicting_models import NAMES, find

Write = Callable[[str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    """Return a function that writes a checkpoint as a folder."""
    return lambda name: write_folder(find(name), tmp_path / name)


def convert(folder: Path) -> dict[str, Any]:
    """Convert a folder; return the metadata and the tensors by name."""
    out = folder / "model.gguf"
    assert main(["convert", str(folder), str(out), "--type", "f32"]) == 0
    model = read_gguf(out, Plugins().registry("quant"))
    return {"metadata": model.metadata, "tensors": model.tensors}


@pytest.mark.parametrize("name", NAMES)
def test_block_is_kept(folder: Write, name: str) -> None:
    checkpoint, path = find(name), folder(name)
    model = convert(path)
    metadata, found = model["metadata"], model["tensors"]
    architecture, n = checkpoint.architecture, checkpoint.key("block_count")
    assert metadata[f"{architecture}.block_count"] == n
    assert metadata[f"{architecture}.nextn_predict_layers"] == 1
    expected = {key: array for key, array in tensors(checkpoint).items() if key.startswith(f"blk.{n - 1}.nextn.")}
    assert len(expected) > 2
    for key, array in expected.items():
        np.testing.assert_allclose(found[key].data.view(np.float32).reshape(array.shape), array, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_block_that_was_left_out_is_not_counted(folder: Write, name: str) -> None:
    """Configs name the block also if the tensors are missing, as in checkpoints that were trained further."""
    checkpoint, path = find(name), folder(name)
    n = checkpoint.key("block_count") - 1
    stored = load_file(path / "model.safetensors")
    kept = {key: array for key, array in stored.items() if not key.startswith(("mtp.", f"model.layers.{n}."))}
    assert len(kept) < len(stored)
    save_file(kept, path / "model.safetensors")
    metadata = convert(path)["metadata"]
    assert metadata[f"{checkpoint.architecture}.block_count"] == n
    assert f"{checkpoint.architecture}.nextn_predict_layers" not in metadata


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("deepseek2-dense-mtp", ["model.layers.3.eh_proj.weight", "model.layers.3.enorm.weight"]),
        ("glm4moe-groups-nextn", ["model.layers.3.shared_head.norm.weight", "model.layers.3.hnorm.weight"]),
        ("qwen35-mtp-tied", ["mtp.fc.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.layers.0.self_attn.q_proj.weight"]),
        ("qwen35moe-fused", ["mtp.norm.weight", "mtp.layers.0.mlp.experts.7.down_proj.weight"]),
    ],
)
def test_names_are_those_of_published_checkpoints(folder: Write, name: str, names: list[str]) -> None:
    assert set(names) <= set(load_file(folder(name) / "model.safetensors"))


def test_own_embedding_and_output_matrix_are_kept_and_used(folder: Write) -> None:
    """DeepSeek-V3 and GLM-4.5 have copies of both in the block."""
    path = folder("glm4moe-groups-nextn")
    stored = load_file(path / "model.safetensors")
    stored["model.layers.3.embed_tokens.weight"] = np.float64(2) * stored["model.embed_tokens.weight"]
    stored["model.layers.3.shared_head.head.weight"] = np.float64(3) * stored["lm_head.weight"]
    save_file(stored, path / "model.safetensors")
    found = convert(path)["tensors"]
    for own, shared, factor in (("embed_tokens", "token_embd", 2), ("shared_head_head", "output", 3)):
        a, b = (found[key].data.view(np.float32) for key in (f"blk.3.nextn.{own}.weight", f"{shared}.weight"))
        np.testing.assert_allclose(a, factor * b, rtol=1e-6)

    plugins = Plugins()
    model = read_gguf(path / "model.gguf", plugins.registry("quant"))
    prediction = plugins.registry("architecture")["glm4moe"](model).prediction
    used = {value.weight.name for value in prediction if hasattr(value, "weight") and value.weight is not None}
    assert {"blk.3.nextn.embed_tokens.weight", "blk.3.nextn.shared_head_head.weight"} <= used
    assert not {"token_embd.weight", "output.weight"} & used


@pytest.mark.parametrize("has_block", [True, False])
@pytest.mark.parametrize(
    ("name", "attention", "recurrent"),
    [
        ("qwen35", qwen35.ATTENTION, qwen35.RECURRENT),
        ("qwen35moe", qwen35moe.ATTENTION, qwen35moe.RECURRENT),
        ("qwen3next", qwen3next.ATTENTION, qwen3next.recurrent(fused=False)),
    ],
)
def test_list_of_recurrent_layers_has_an_entry_for_the_block(
    tmp_path: Path, name: str, attention: Shapes, recurrent: Shapes, has_block: bool
) -> None:
    """llama.cpp reads as many entries as `block_count` says, and refuses a file with fewer.

    See `load_arch_hparams` in https://github.com/ggml-org/llama.cpp/blob/master/src/models/qwen35.cpp.
    """
    block = [qwen35.prediction(attention)] if has_block else []
    checkpoint = replace(find(name), shapes=layers.model([attention, recurrent, recurrent, *block]))
    config = json.loads(config_path(name).read_text("utf-8"))
    types = ["full_attention", "linear_attention", "linear_attention"]
    config |= {"num_hidden_layers": 3, "layer_types": types, "tie_word_embeddings": False}
    write_folder(checkpoint, tmp_path, config)
    metadata = convert(tmp_path)["metadata"]

    entries = [False, True, True, *([False] if has_block else [])]
    assert metadata[f"{name}.attention.recurrent_layers"].tolist() == entries
    assert metadata[f"{name}.block_count"] == len(entries)
    assert f"{name}.full_attention_interval" not in metadata
    plugins = Plugins()
    graph = build_graph(read_gguf(tmp_path / "model.gguf", plugins.registry("quant")), plugins)
    assert (graph.prediction is not None) == has_block
